//! Two users with one key, in every order of what each may do to it.

use crate::business::{World, table};

const SQL: &str = "
CREATE TABLE shared (id uuid PRIMARY KEY, name text);
CREATE TABLE owned (id uuid PRIMARY KEY, name text, user_id text);";
const LIFE: [&str; 4] = ["INSERT", "UPDATE", "DELETE", "INSERT"];

/// Every way to merge two lives of that many steps, as which of the two takes each step.
fn merges(first: usize, second: usize) -> Vec<Vec<bool>> {
    if first == 0 || second == 0 {
        return vec![[vec![false; first], vec![true; second]].concat()];
    }
    let with = |step: bool, rest: Vec<Vec<bool>>| {
        rest.into_iter().map(move |mut order| {
            order.insert(0, step);
            order
        })
    };
    with(false, merges(first - 1, second)).chain(with(true, merges(first, second - 1))).collect()
}

/// The row belongs to whoever made it while there was none.
#[derive(Default)]
struct Model {
    owner: Option<bool>,
    name: Option<String>,
}

impl Model {
    fn step(&mut self, who: bool, op: &str, name: &str) -> bool {
        if self.owner.is_some_and(|owner| owner != who) {
            return false;
        }
        if op == "DELETE" {
            *self = Self::default();
        } else {
            *self = Self { owner: Some(who), name: Some(name.to_owned()) };
        }
        true
    }
}

#[tokio::test]
async fn the_row_is_its_first_owner_s_in_every_order() {
    let owned = outrigger_application::TableConfig { owner_column: Some("user_id".into()), ..table("owned") };
    let world = World::new(SQL, vec![table("shared"), owned]).await;
    for (n, order) in merges(LIFE.len(), LIFE.len()).into_iter().enumerate() {
        for (name, offset) in [("shared", 0), ("owned", 0)] {
            let pk = 1 + n as u128 + offset;
            let (mut model, mut at) = (Model::default(), [0; 2]);
            for &who in &order {
                let user = if who { "bob" } else { "alice" };
                let op = LIFE[at[usize::from(who)]];
                let payload = format!("{{\"name\":\"{user}{}\"}}", at[usize::from(who)]);
                at[usize::from(who)] += 1;
                world.up(user, &[(op, name, pk, &payload)]).await;
                let projected = model.step(who, op, &format!("{user}{}", at[usize::from(who)] - 1));
                let id = uuid::Uuid::from_u128(pk);
                let found = world.rows(format!("SELECT name FROM {name} WHERE id = '{id}'")).await;
                assert_eq!(found.first(), model.name.as_ref(), "{name} {order:?} {op} by {user}");
                if name == "owned" && !found.is_empty() {
                    let owner = world.rows(format!("SELECT user_id FROM owned WHERE id = '{id}'")).await;
                    assert_eq!(owner, [if model.owner == Some(true) { "bob" } else { "alice" }]);
                }
                let failed =
                    world.failures(user).await.iter().any(|of| of.row.pk == id && of.row.table.table() == name);
                // A delete of a row that was never the user's has nothing to undo.
                assert!(failed != projected || op == "DELETE", "{name} {order:?} {op} by {user}: failed {failed}");
            }
        }
    }
}
