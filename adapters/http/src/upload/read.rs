//! Reading an upload's body.
//!
//! What is kept of it is bounded by the body and by the number of changes that an upload may have: of all that come
//! behind, only their numbers are kept, by which they are refused. An array of nothing but zeros would otherwise cost
//! many times its bytes.

use std::fmt;

use outrigger_application::UploadService;
use outrigger_domain::Submission;
use outrigger_domain::json::{self, FromObject};
use outrigger_domain::limits::MIXED_CHANGES_MAX;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::body::brief;
use crate::error::ApiError;
use crate::wire::{Text, UploadChange, UploadRequest};

/// The changes of an upload.
#[derive(Default)]
pub(crate) struct Changes {
    /// The number of each; 0 where it could not be read.
    pub(super) ids: Vec<i64>,
    /// As many of them as an upload may have, and one more if there are too many.
    pub(super) submissions: Vec<Submission>,
}

/// Reads an upload: its changes in one pass if all of them are well-formed, else one by one.
pub(super) fn read<'a>(text: &'a str, service: &UploadService) -> Result<UploadRequest<'a>, ApiError> {
    let read = |is_mixed| {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let request = Request(Elements { service, is_mixed }).deserialize(&mut deserializer)?;
        deserializer.end().map(|()| request)
    };
    let no_upload = |error| ApiError::invalid_request(format!("the body is no upload: {}", brief(&error)));
    read(false).or_else(|_| read(true)).map_err(no_upload)
}

/// How the body is read: as derived code would, but for the changes.
struct Request<'s>(Elements<'s>);

impl<'de> DeserializeSeed<'de> for Request<'_> {
    type Value = UploadRequest<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Request<'_> {
    type Value = UploadRequest<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut changes, mut atomic, mut epoch): (Option<Changes>, Option<bool>, Option<Option<Text<'de>>>) =
            (None, None, None);
        while let Some(name) = map.next_key::<Text<'de>>()? {
            match &*name.0 {
                "changes" if changes.is_some() => return Err(A::Error::duplicate_field("changes")),
                "atomic" if atomic.is_some() => return Err(A::Error::duplicate_field("atomic")),
                "epoch" if epoch.is_some() => return Err(A::Error::duplicate_field("epoch")),
                "changes" => changes = Some(map.next_value_seed(self.0)?),
                "atomic" => atomic = Some(map.next_value()?),
                "epoch" => epoch = Some(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let changes = changes.ok_or_else(|| A::Error::missing_field("changes"))?;
        Ok(UploadRequest { changes, atomic: atomic.unwrap_or(false), epoch: epoch.flatten() })
    }
}

/// How the changes are read.
#[derive(Clone, Copy)]
struct Elements<'s> {
    service: &'s UploadService,
    /// Whether some of them may be no changes.
    is_mixed: bool,
}

impl<'de> DeserializeSeed<'de> for Elements<'_> {
    type Value = Changes;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Changes, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = Changes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of changes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Changes, A::Error> {
        let mut changes = Changes::default();
        let kept_max = self.service.changes_max() + 1;
        if !self.is_mixed {
            while let Some(FromObject(change)) = elements.next_element::<FromObject<UploadChange<'de>>>()? {
                let raw = change.raw();
                changes.ids.push(raw.source_change_id);
                if changes.submissions.len() < kept_max {
                    changes.submissions.push(self.service.admit(raw));
                }
            }
            return Ok(changes);
        }
        while let Some(change) = elements.next_element::<&'de RawValue>()? {
            if changes.ids.len() == MIXED_CHANGES_MAX {
                let why = format!("more than {MIXED_CHANGES_MAX} changes, and not all of them well-formed");
                return Err(A::Error::custom(why));
            }
            if changes.submissions.len() < kept_max {
                let submission = read_one(change.get(), self.service);
                changes.ids.push(submission.source_change_id);
                changes.submissions.push(submission);
            } else {
                changes.ids.push(number(change.get()).unwrap_or_default());
            }
        }
        Ok(changes)
    }
}

fn read_one(text: &str, service: &UploadService) -> Submission {
    match serde_json::from_str::<FromObject<UploadChange<'_>>>(text) {
        Ok(FromObject(change)) => service.admit(change.raw()),
        Err(error) => {
            let message = format!("the change cannot be read: {}", brief(&error));
            Submission::unreadable(number(text).unwrap_or_default(), message)
        }
    }
}

/// The number by which a malformed change is told from the others, if it can be read.
fn number(text: &str) -> Option<i64> {
    json::members(text, &["source_change_id"])?.pop()??.get().parse().ok()
}
