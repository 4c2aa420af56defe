//! The members of a payload, where they stand in its text.

use std::borrow::Cow;
use std::fmt;

use rusqlite::types::Value;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::Error;
use crate::conflict::Image;
use crate::shape::Shape;
use crate::values::{from_json, to_json};

/// Names and values, in the order of the text. Of a name that comes twice the last one counts.
pub(crate) struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// A name, copied only if it is written with escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::with_capacity(8);
                while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

impl<'a> Members<'a> {
    /// Of a payload.
    pub(crate) fn of(payload: &'a RawValue) -> Result<Self, Error> {
        serde_json::from_str(payload.get()).map_err(|error| Error::Protocol(error.to_string()))
    }

    /// Of an image.
    pub(crate) fn of_image(image: &'a Image) -> Self {
        Self(image.iter().map(|(name, value)| (Cow::Borrowed(&**name), &**value)).collect())
    }

    /// The values of the table's columns as it keeps them, none where there is no such member; or why it cannot.
    pub(crate) fn values(&self, shape: &Shape) -> Result<Vec<Option<Value>>, String> {
        let mut values: Vec<Option<Value>> = shape.columns.iter().map(|_| None).collect();
        for (name, json) in &self.0 {
            if let Some(at) = shape.columns.iter().position(|column| column.name == *name) {
                values[at] = Some(from_json(json, &shape.columns[at])?);
            }
        }
        Ok(values)
    }

    /// The row in the words that this device would use for it: only its own columns, numbers as SQLite keeps them.
    pub(crate) fn image(&self, shape: &Shape) -> Image {
        let own = |(name, json): &(Cow<'_, str>, &RawValue)| {
            let column = shape.columns.iter().find(|column| column.name == *name)?;
            let value = from_json(json, column).ok()?;
            Some((column.name.clone(), to_json((&value).into(), column).ok()?))
        };
        self.0.iter().filter_map(own).collect()
    }

    /// Whether there are members that are no columns. The key goes beside the payload, whether it is in it too or not.
    pub(crate) fn has_unknown(&self, shape: &Shape) -> bool {
        self.0.iter().any(|(name, _)| is_unknown(name, shape))
    }

    /// Those members.
    pub(crate) fn unknown(&self, shape: &Shape) -> Image {
        let unknown = self.0.iter().filter(|(name, _)| is_unknown(name, shape));
        unknown.map(|(name, json)| (name.clone().into_owned(), (*json).to_owned())).collect()
    }
}

fn is_unknown(name: &str, shape: &Shape) -> bool {
    name != shape.pk.name && !shape.columns.iter().any(|column| column.name == name)
}
