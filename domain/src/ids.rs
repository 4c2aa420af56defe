//! Identities and counters, each a type of its own so that two of them cannot be swapped by mistake.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use crate::limits::ID_BYTES_MAX;

/// Why a text is not an id of a user or a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadId {
    /// The text is empty.
    #[error("is empty")]
    Empty,
    /// The text has more than [`ID_BYTES_MAX`] bytes.
    #[error("is longer than {ID_BYTES_MAX} bytes")]
    TooLong,
    /// The text holds a control character.
    #[error("contains a control character")]
    ControlCharacter,
}

fn check_id(text: &str) -> Result<(), BadId> {
    if text.is_empty() {
        Err(BadId::Empty)
    } else if text.len() > ID_BYTES_MAX {
        Err(BadId::TooLong)
    } else if text.chars().any(char::is_control) {
        Err(BadId::ControlCharacter)
    } else {
        Ok(())
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes 1 to [`ID_BYTES_MAX`] bytes of UTF-8 without control characters, as they are.
            pub fn parse(text: &str) -> Result<Self, BadId> {
                check_id(text)?;
                Ok(Self(text.into()))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id! {
    /// The owner of the data and the boundary of isolation: the token's `sub`.
    UserId
}
text_id! {
    /// One installation of an app on one device.
    SourceId
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub i64);

        impl $name {
            /// The number that follows this one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter! {
    /// `server_id`: the place of a change in its user's stream, counted from 1. 0 is the start of the stream.
    ServerSeq
}
counter! {
    /// `server_version` of a row: 0 = the server never saw it, then one more by every applied change.
    RowVersion
}
counter! {
    /// The source's own number for a change: positive, never reused by that source.
    SourceChangeId
}

/// Names one life of a user's stream. Another epoch means that the numbers of the stream have lost their meaning: the
/// database was restored from a backup, or the user was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Epoch(pub Uuid);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_1_to_255_bytes_without_control_characters() {
        assert_eq!(UserId::parse(""), Err(BadId::Empty));
        assert_eq!(UserId::parse("a\nb"), Err(BadId::ControlCharacter));
        assert_eq!(UserId::parse("a\u{85}b"), Err(BadId::ControlCharacter));
        assert!(UserId::parse(&"x".repeat(255)).is_ok());
        assert_eq!(UserId::parse(&"é".repeat(128)), Err(BadId::TooLong));
        assert_eq!(SourceId::parse(" søster's phone ").unwrap().as_str(), " søster's phone ");
    }
}
