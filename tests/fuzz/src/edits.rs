//! What becomes of a seed.

use proptest::collection::vec;
use proptest::prelude::{Strategy, any};
use proptest::prop_oneof;
use proptest::sample::{Index, select};

/// Text that parsers stumble over.
const TOKENS: [&[u8]; 40] = [
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"\\udc00\\ud800",
    b"\\u",
    b"\0",
    b"\xff",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"true",
    b"-0",
    b"1e999",
    b"-1e-999",
    b"9223372036854775807",
    b"9223372036854775808",
    b"-9223372036854775809",
    b"123456789012345678901234567890.5",
    b"0",
    b"1",
    b"\"op\":\"DELETE\"",
    b"\"payload\":null",
    b"\"payload\":{}",
    b"\"changes\":",
    b"\"source_change_id\":1,",
    b"&",
    b"=",
    b"%00",
    b"%",
    b"+",
    b".",
    b"\n",
    b"\xef\xbb\xbf",
];

#[derive(Clone, Debug)]
enum Edit {
    /// Put this there.
    Put(Index, Vec<u8>),
    /// Take as many bytes away there.
    Cut(Index, usize),
    /// Put as many bytes as that once more, so many times, where they stand.
    Repeat(Index, usize, usize),
    /// Put as many bytes of there also elsewhere.
    Copy(Index, usize, Index),
    /// Change one bit of that byte.
    Flip(Index, u8),
}

/// A seed with up to eight edits. Made smaller it has fewer of them.
pub(crate) fn edited(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let edit = prop_oneof![
        4 => (any::<Index>(), select(TOKENS.to_vec())).prop_map(|(at, token)| Edit::Put(at, token.to_vec())),
        1 => (any::<Index>(), vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Edit::Put(at, bytes)),
        2 => (any::<Index>(), 1..32_usize).prop_map(|(at, length)| Edit::Cut(at, length)),
        1 => (any::<Index>(), 1..64_usize, 1..300_usize).prop_map(|(at, length, times)| Edit::Repeat(at, length, times)),
        1 => (any::<Index>(), 1..64_usize, any::<Index>()).prop_map(|(from, length, to)| Edit::Copy(from, length, to)),
        2 => (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Edit::Flip(at, bit)),
    ];
    (select(seeds), vec(edit, 0..=8)).prop_map(|(seed, edits)| edits.iter().fold(seed, apply))
}

fn apply(mut input: Vec<u8>, edit: &Edit) -> Vec<u8> {
    let place = |at: &Index| at.index(input.len() + 1);
    let piece = |at: &Index, length: usize| place(at)..(place(at) + length).min(input.len());
    match edit {
        Edit::Put(at, bytes) => drop(input.splice(place(at)..place(at), bytes.iter().copied())),
        Edit::Cut(at, length) => drop(input.drain(piece(at, *length))),
        Edit::Repeat(at, length, times) => {
            let (piece, at) = (input[piece(at, *length)].repeat(*times), place(at));
            drop(input.splice(at..at, piece));
        }
        Edit::Copy(from, length, to) => {
            let (piece, to) = (input[piece(from, *length)].to_vec(), place(to));
            drop(input.splice(to..to, piece));
        }
        Edit::Flip(at, bit) => {
            let at = place(at);
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << bit;
            }
        }
    }
    input
}
