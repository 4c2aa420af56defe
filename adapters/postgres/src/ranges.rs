//! Idempotency keys as they are asked for.

use outrigger_domain::{SourceChangeId, SourceId};

/// Keys of one source without a gap.
pub(crate) struct Range<'a> {
    pub(crate) source: &'a SourceId,
    pub(crate) first: i64,
    pub(crate) last: i64,
}

/// The keys of each source, put together where one follows the other.
pub(crate) fn ranges<'a>(keys: impl Iterator<Item = (&'a SourceId, SourceChangeId)>) -> Vec<Range<'a>> {
    let mut keys: Vec<(&SourceId, i64)> = keys.map(|(source, number)| (source, number.0)).collect();
    keys.sort_unstable_by(|a, b| a.0.as_str().cmp(b.0.as_str()).then(a.1.cmp(&b.1)));
    let mut ranges: Vec<Range<'_>> = Vec::new();
    for (source, number) in keys {
        match ranges.last_mut() {
            Some(range) if range.source == source && range.last.checked_add(1) == Some(number) => range.last = number,
            _ => ranges.push(Range { source, first: number, last: number }),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_follow_each_other_are_one_range() {
        let source = |name: &str| SourceId::parse(name).unwrap();
        let key = |(name, number)| (source(name), SourceChangeId(number));
        let keys = [("b", 6), ("a", 3), ("b", 5), ("a", 1), ("b", i64::MAX), ("b", 7), ("a", 4)].map(key);
        let found = ranges(keys.iter().map(|(source, number)| (source, *number)));
        let found: Vec<_> = found.iter().map(|range| (range.source.as_str(), range.first, range.last)).collect();
        assert_eq!(found, [("a", 1, 1), ("a", 3, 4), ("b", 5, 7), ("b", i64::MAX, i64::MAX)]);
    }
}
