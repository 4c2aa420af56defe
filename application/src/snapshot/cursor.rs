//! Where the next page of a snapshot begins, as a device carries it from page to page.

use std::fmt;
use std::str::FromStr;

use outrigger_domain::{Epoch, ServerSeq, TableName};
use uuid::Uuid;

/// Where the next page of a snapshot begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The end of the stream when the snapshot began.
    pub as_of: ServerSeq,
    /// The life of the stream.
    pub epoch: Epoch,
    /// Tells in which order of tables the pages come.
    pub(super) order: u64,
    /// The table.
    pub(super) table: TableName,
    /// The key of the last row that the page before had of it.
    pub(super) after: Option<Uuid>,
}

/// As devices send it back. They are told nothing of its parts.
impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~{}~{:x}~{}", self.as_of, self.epoch.0.simple(), self.order, self.table)?;
        self.after.map_or(Ok(()), |after| write!(f, "~{}", after.simple()))
    }
}

/// A text that is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no page of a snapshot")]
pub struct NoCursor;

impl FromStr for Cursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        let parts: Vec<&str> = text.split('~').collect();
        let ([as_of, epoch, order, table], after) = match *parts.as_slice() {
            [as_of, epoch, order, table] => ([as_of, epoch, order, table], None),
            [as_of, epoch, order, table, after] => ([as_of, epoch, order, table], Some(after)),
            _ => return Err(NoCursor),
        };
        let uuid = |text: &str| Uuid::try_parse(text).map_err(|_| NoCursor);
        let as_of = as_of.parse().ok().filter(|&as_of: &i64| as_of >= 0).ok_or(NoCursor)?;
        Ok(Self {
            as_of: ServerSeq(as_of),
            epoch: Epoch(uuid(epoch)?),
            order: u64::from_str_radix(order, 16).map_err(|_| NoCursor)?,
            table: TableName::parse_qualified(table).map_err(|_| NoCursor)?,
            after: after.map(uuid).transpose()?,
        })
    }
}

/// FNV-1a of the tables' names in their order: the same on every node and in every release.
pub(super) fn fingerprint(tables: &[TableName]) -> u64 {
    let text: String = tables.iter().map(|table| format!("{table} ")).collect();
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_went() {
        for after in [None, Some(Uuid::from_u128(7))] {
            let table = TableName::parse_qualified("shop.orders").unwrap();
            let cursor =
                Cursor { as_of: ServerSeq(12), epoch: Epoch(Uuid::from_u128(9)), order: u64::MAX, table, after };
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
    }

    #[test]
    fn nonsense_is_no_cursor() {
        let epoch = Uuid::nil().simple();
        for text in
            ["", "1", "~~~", &format!("-1~{epoch}~0~a.b"), &format!("1~{epoch}~0~a b"), &format!("1~{epoch}~0~a.b~x")]
        {
            assert_eq!(text.parse::<Cursor>(), Err(NoCursor), "{text}");
        }
    }
}
