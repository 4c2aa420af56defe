//! What nodes say to each other: one JSON array per notification, which may have 8000 bytes.

use outrigger_application::News;
use outrigger_domain::{ServerSeq, SourceId, UserId};
use uuid::Uuid;

/// One notification.
#[derive(Debug, PartialEq)]
pub(super) enum Message {
    /// The node is there.
    Hello,
    /// A stream has grown.
    News(News),
}

impl Message {
    /// The text, as from that node. Ids have 255 bytes at the most, and escaped as JSON six times that.
    pub(super) fn to_text(&self, node: Uuid) -> String {
        let text = match self {
            Self::Hello => serde_json::to_string(&(node,)),
            Self::News(News { user, after, head, only }) => {
                serde_json::to_string(&(node, user.as_str(), after.0, head.0, only.as_ref().map(SourceId::as_str)))
            }
        };
        text.unwrap_or_default()
    }

    /// The node and its message. None for what another release says: it is a hint that this one does not understand.
    pub(super) fn parse(text: &str) -> Option<(Uuid, Self)> {
        if let Ok((node, user, after, head, only)) = serde_json::from_str(text) {
            let (user, only): (String, Option<String>) = (user, only);
            let only = only.map(|source| SourceId::parse(&source)).transpose().ok()?;
            let (user, after, head) = (UserId::parse(&user).ok()?, ServerSeq(after), ServerSeq(head));
            return Some((node, Self::News(News { user, after, head, only })));
        }
        let (node,) = serde_json::from_str(text).ok()?;
        Some((node, Self::Hello))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written_and_fits() {
        let node = Uuid::from_u128(7);
        let longest = "\u{fffd}\"\\".repeat(51);
        for only in [None, Some(SourceId::parse(&longest).unwrap())] {
            let (after, head) = (ServerSeq(i64::MAX - 1), ServerSeq(i64::MAX));
            let message = Message::News(News { user: UserId::parse(&longest).unwrap(), after, head, only });
            let text = message.to_text(node);
            assert!(text.len() < 7_000, "{}", text.len());
            assert_eq!(Message::parse(&text), Some((node, message)));
        }
        assert_eq!(Message::parse(&Message::Hello.to_text(node)), Some((node, Message::Hello)));
        assert_eq!(Message::parse("something else"), None);
    }
}
