//! Random histories: what several devices of several users send, in words that a smaller history still makes sense of.
//!
//! Versions, numbers and cursors are relative to how things stand when a step is taken, so that most changes apply and
//! the rest miss by little.
#![expect(missing_docs, reason = "the fields are what their names say")]

use proptest::prelude::*;

use crate::model::{Change, Epoch, Payload};

/// All tables of a history, and what refers to what.
pub const TABLES: [(&str, &[(&str, &str)]); 3] = [
    ("public.users", &[]),
    ("public.posts", &[("author_id", "public.users"), ("reply_to", "public.posts")]),
    ("business.orders", &[("author_id", "public.users")]),
];
/// Changes in one upload.
pub const CHANGES_MAX: usize = 20;

/// One request.
#[derive(Clone, Debug)]
pub enum Step {
    /// An upload of a device.
    Upload { who: Who, changes: Vec<Sketch>, atomic: bool, epoch: Option<Epoch> },
    /// The last upload of that device, once more.
    Again { who: Who },
    /// A download.
    Download { who: Who, asked: Asked },
    /// What may be forgotten of the history is, but for the keys.
    Forget,
    /// All rows, page by page.
    Snapshot { who: Who, limit: u8 },
}

/// A device of a user.
#[derive(Clone, Copy, Debug)]
pub struct Who {
    pub user: u8,
    pub device: u8,
}

/// What a download asks for, before it is known how things stand.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub after: Place,
    pub limit: Option<i64>,
    pub schema: Option<&'static str>,
    pub include_self: bool,
    pub until: Place,
    pub wait: Option<i64>,
    pub epoch: Option<Epoch>,
    /// What a parameter is that is no number, if one is.
    pub odd: Option<(&'static str, &'static str)>,
}

impl Asked {
    /// The whole stream.
    pub const ALL: Self = Self {
        after: Place::Start,
        limit: Some(1000),
        schema: None,
        include_self: true,
        until: Place::Start,
        wait: None,
        epoch: None,
        odd: None,
    };
}

/// A place in the stream.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    Start,
    /// So many thousandths of the way to its end.
    Part(u16),
    End,
    Behind(i64),
}

/// The number of a change.
#[derive(Clone, Copy, Debug)]
pub enum Id {
    Fresh,
    /// One that this device has used so many changes ago.
    Used(u8),
    Odd(i64),
    NoNumber,
}

/// The version that a change names.
#[derive(Clone, Copy, Debug)]
pub enum Version {
    /// The row's.
    Current,
    /// So far from it.
    Off(i64),
    Exactly(i64),
}

/// A change, before it is known how things stand.
#[derive(Clone, Debug)]
pub struct Sketch {
    pub id: Id,
    pub table: &'static str,
    pub schema: Option<&'static str>,
    pub op: &'static str,
    pub pk: u8,
    pub pk_form: u8,
    pub version: Version,
    pub payload: u8,
    pub author: u8,
    pub reply_to: u8,
    /// Instead of all that: a change that this device has sent before, so many changes ago.
    pub again: Option<Again>,
}

/// How a change is sent once more.
#[derive(Clone, Copy, Debug)]
pub struct Again {
    pub ago: u8,
    /// Whether it is written in another way.
    pub rewritten: bool,
    /// Whether it names the row's version as it is now.
    pub resolved: bool,
}

/// Histories of up to that many steps.
pub fn histories(steps: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..=steps)
}

fn who() -> impl Strategy<Value = Who> {
    (0_u8..2, 0_u8..3).prop_map(|(user, device)| Who { user, device })
}

fn place() -> impl Strategy<Value = Place> {
    prop_oneof![
        4 => Just(Place::Start),
        4 => (0_u16..1000).prop_map(Place::Part),
        2 => Just(Place::End),
        1 => (1_i64..3).prop_map(Place::Behind),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let changes =
        || prop_oneof![8 => prop::collection::vec(sketch(), 0..8), 1 => prop::collection::vec(sketch(), 19..22)];
    let upload = (who(), changes(), prop::bool::weighted(0.2), epoch())
        .prop_map(|(who, changes, atomic, epoch)| Step::Upload { who, changes, atomic, epoch });
    prop_oneof![
        8 => upload,
        2 => who().prop_map(|who| Step::Again { who }),
        4 => (who(), asked()).prop_map(|(who, asked)| Step::Download { who, asked }),
        1 => Just(Step::Forget),
        1 => (who(), 1_u8..5).prop_map(|(who, limit)| Step::Snapshot { who, limit }),
    ]
}

fn asked() -> impl Strategy<Value = Asked> {
    let limit = prop_oneof![
        2 => Just(None),
        6 => (1_i64..6).prop_map(Some),
        1 => prop_oneof![Just(0), Just(1000), Just(1001), Just(-1)].prop_map(Some),
    ];
    let schema =
        prop_oneof![3 => Just(None), 1 => Just(Some("public")), 1 => Just(Some("business")), 1 => Just(Some("none"))];
    let wait = prop_oneof![
        6 => Just(None),
        3 => prop_oneof![Just(0), Just(1), Just(60)].prop_map(Some),
        1 => prop_oneof![Just(61), Just(-1)].prop_map(Some),
    ];
    let numbers = (
        prop_oneof![Just("after"), Just("limit"), Just("until"), Just("wait"), Just("include_self")],
        prop_oneof![Just(""), Just("x"), Just("+2"), Just("2.0"), Just("99999999999999999999"), Just("%00")],
    );
    let names = (Just("schema"), prop_oneof![Just(""), Just("no-name"), Just("a.b"), Just("%00")]);
    let odd = prop_oneof![5 => numbers, 1 => names];
    let odd = prop::option::weighted(0.05, odd);
    (place(), limit, schema, any::<bool>(), place(), wait, epoch(), odd).prop_map(
        |(after, limit, schema, include_self, until, wait, epoch, odd)| Asked {
            after,
            limit,
            schema,
            include_self,
            until,
            wait,
            epoch,
            odd,
        },
    )
}

fn epoch() -> impl Strategy<Value = Option<Epoch>> {
    prop_oneof![
        12 => Just(None),
        6 => Just(Some(Epoch::This)),
        1 => Just(Some(Epoch::Another)),
        1 => Just(Some(Epoch::NoUuid)),
    ]
}

fn sketch() -> impl Strategy<Value = Sketch> {
    let id = prop_oneof![
        16 => Just(Id::Fresh),
        3 => (0_u8..4).prop_map(Id::Used),
        1 => prop_oneof![Just(Id::Odd(0)), Just(Id::Odd(-1)), Just(Id::Odd(i64::MAX)), Just(Id::NoNumber)],
    ];
    let table = prop_oneof![
        40 => Just("users"), 40 => Just("posts"), 2 => Just(" Users "), 4 => Just("unknown"), 1 => Just("no name"), 1 => Just("")
    ];
    let table = prop_oneof![
        20 => (prop_oneof![30 => Just(None), 10 => Just(Some("public")), 10 => Just(Some("PUBLIC")), 1 => Just(Some("bad-"))], table),
        5 => Just((Some("business"), "orders")),
    ];
    let op = prop_oneof![30 => Just("INSERT"), 30 => Just("UPDATE"), 15 => Just("DELETE"), 2 => Just("update"), 1 => Just("MERGE")];
    let version = prop_oneof![
        14 => Just(Version::Current),
        2 => prop_oneof![Just(-1), Just(1)].prop_map(Version::Off),
        2 => (0_i64..3).prop_map(Version::Exactly),
        1 => prop_oneof![Just(-1), Just(i64::MAX)].prop_map(Version::Exactly),
    ];
    let payload = prop_oneof![60 => 0_u8..20, 3 => Just(23_u8), 1 => 20_u8..23];
    let row = (0_u8..4, prop_oneof![60 => Just(0_u8), 4 => Just(1), 1 => Just(2)]);
    let again = (0_u8..16, any::<bool>(), prop::bool::weighted(0.3));
    let again = again.prop_map(|(ago, rewritten, resolved)| Again { ago, rewritten, resolved });
    let again = prop::option::weighted(0.15, again);
    (id, table, op, row, version, payload, (0_u8..16, 0_u8..40), again).prop_map(
        |(id, (schema, table), op, (pk, pk_form), version, payload, (author, reply_to), again)| Sketch {
            id,
            table,
            schema,
            op,
            pk,
            pk_form,
            version,
            payload,
            author,
            reply_to,
            again,
        },
    )
}

/// The key of that number, as the server writes it.
pub fn pk(number: u8) -> String {
    format!("0198f00d-0000-7000-8000-0000000000{number:02x}")
}

impl Sketch {
    /// The change as it is sent, given the number and the version that it stands for.
    pub fn change(&self, id: Option<i64>, version: i64) -> Change {
        let pk = match self.pk_form {
            1 => pk(self.pk).to_uppercase(),
            2 => "not-a-key".into(),
            _ => pk(self.pk),
        };
        let payload = if self.op == "DELETE" && self.payload != 23 { None } else { self.payload() };
        Change { id, schema: self.schema, table: self.table, op: self.op, pk, version, payload }
    }

    /// What it is about, for the version of the row.
    pub fn row(&self) -> (String, String) {
        let schema = self.schema.unwrap_or("public").to_lowercase();
        (format!("{schema}.{}", self.table.trim().to_lowercase()), pk(self.pk))
    }

    fn payload(&self) -> Option<Payload> {
        let (author, author_key) = reference(self.author);
        let (reply, reply_key) = reference(self.reply_to);
        let references = [("author_id", author, author_key), ("reply_to", reply, reply_key)];
        let references = references.into_iter().filter_map(|(name, text, key)| Some((name, text?, key)));
        let (mut members, mut keys) = (String::new(), Vec::new());
        for (name, text, key) in references {
            members += &format!(r#","{name}":{text}"#);
            // JSON null refers to nothing.
            if text != "null" {
                keys.push((name, key));
            }
        }
        let (text, kind) = match self.payload {
            0..=9 => (format!(r#"{{"n":{}{members}}}"#, self.payload % 3), u32::from(self.payload % 3)),
            // One value, written in several ways.
            10..=12 => (format!(r#"{{"n":1.50,"t":"é"{members}}}"#), 10),
            13..=15 => (format!(r#"{{ "t" : "\u00e9", "n" : 15e-1 {members} }}"#), 10),
            16..=18 => (format!(r#"{{"big":123456789012345678901234567890.10,"deep":[[{{}}]]{members}}}"#), 16),
            19 => (format!(r#"{{"twice":1,"twice":2{members}}}"#), 19),
            20 => ("[]".into(), 20),
            21 => (r#""text""#.into(), 21),
            22 => return None,
            _ => (format!(r#"{{"emoji":"😀","quote":"\"\\","n":-0.0{members}}}"#), 23),
        };
        let is_object = text.starts_with('{');
        let references = if is_object { keys } else { Vec::new() };
        // What a row refers to is part of its value; the number of a key stands for all ways to write it.
        let part = |number: u8, written: Option<&str>| written.map_or(99, |_| u32::from(number));
        let value = kind * 10_000 + part(self.author, author) * 100 + part(self.reply_to, reply);
        Some(Payload { text, value: if is_object { value } else { kind }, is_object, references })
    }
}

/// How a reference is written, if at all, and the key that it is.
fn reference(number: u8) -> (Option<&'static str>, Option<String>) {
    match number {
        0 => (Some(r#""0198f00d-0000-7000-8000-000000000000""#), Some(pk(0))),
        1 => (Some(r#""0198F00D-0000-7000-8000-000000000001""#), Some(pk(1))),
        // Base64 of the sixteen bytes.
        2 => (Some(r#""AZjwDQAAcACAAAAAAAAAAg==""#), Some(pk(2))),
        3 => (Some(r#""0198f00d-0000-7000-8000-000000000003""#), Some(pk(3))),
        4 => (Some("null"), None),
        5 => (Some("7"), None),
        _ => (None, None),
    }
}
