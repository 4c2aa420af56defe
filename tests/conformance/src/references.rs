//! Rule 5: a change whose parent does not exist for its user is refused.

use outrigger_domain::plan::Verdict;
use outrigger_domain::{Decision, Reason};

use crate::world::*;

fn post(id: i64, number: u128, author: u128) -> Sent {
    insert(id, pk(number), format!("{{\"author_id\":\"{}\"}}", pk(author))).of(None, "posts")
}

fn comment(id: i64, number: u128, payload: impl Into<String>) -> Sent {
    insert(id, pk(number), payload).of(None, "comments")
}

/// The missing parents of each change, as the protocol writes them; none for one that is applied.
fn missing(verdict: &Verdict) -> Vec<Vec<String>> {
    let of = |decision: &Decision| match decision {
        Decision::Applied { .. } => Vec::new(),
        Decision::Invalid(refusal) if refusal.reason == Reason::FkMissing => {
            refusal.missing.iter().map(ToString::to_string).collect()
        }
        other => panic!("{other:?}"),
    };
    verdict.decisions.iter().map(of).collect()
}

fn name(table: &str, number: u128) -> String {
    format!("public.{table}:{}", pk(number))
}

/// The rule.
pub async fn a_change_without_its_parent_is_refused<B: Backend>(world: &World<B>) {
    let (phone, tablet) = (world.device("alice", "phone"), world.device("alice", "tablet"));
    let verdict = phone.upload([post(1, 10, 1), insert(2, pk(5), "{}")]).await;
    assert_eq!(missing(&verdict), [vec![name("users", 1)], vec![]]);
    assert!(verdict.accepted);
    // The refused change left no trace; once the parent is there it is applied under the same number.
    tablet.apply([insert(1, pk(1), "{}")]).await;
    assert_eq!(phone.apply([post(1, 10, 1)]).await, [1]);
    let moved = update(3, pk(10), 1, format!("{{\"author_id\":\"{}\"}}", pk(2))).of(None, "posts");
    assert_eq!(missing(&phone.upload([moved]).await), [vec![name("users", 2)]]);
    assert_eq!(phone.stream().await.len(), 3);
}

/// `details.missing`
pub async fn every_missing_parent_is_listed<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    phone.apply([insert(1, pk(1), "{}"), post(2, 2, 1)]).await;
    let of = |post: u128, answers: u128, moderator: u128| {
        format!(
            "{{\"post_id\":\"{}\",\"answers_id\":\"{}\",\"moderator_id\":\"{}\"}}",
            pk(post),
            pk(answers),
            pk(moderator)
        )
    };
    let verdict = phone.upload([comment(3, 30, of(7, 8, 9)), comment(4, 31, of(2, 8, 1))]).await;
    let all = vec![name("posts", 7), name("comments", 8), name("users", 9)];
    assert_eq!(missing(&verdict), [all, vec![name("comments", 8)]]);
}

/// Order inside a request does not matter.
pub async fn a_parent_that_comes_later_in_the_request_counts<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    let batch = [
        comment(1, 30, format!("{{\"post_id\":\"{}\"}}", pk(20))),
        post(2, 20, 10),
        insert(3, pk(10), "{}"),
        post(4, 21, 10),
    ];
    assert_eq!(phone.apply(&batch).await, [1, 1, 1, 1]);
    let ids: Vec<_> = phone.stream().await.iter().map(|change| change.source_change_id.0).collect();
    assert_eq!(ids, [1, 2, 3, 4]);
}

/// A parent that was only promised is none, nor are the children's children.
pub async fn a_parent_that_is_refused_later_does_not_count<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    let mut stale = insert(3, pk(10), "{}");
    stale.version = 4;
    let batch =
        [comment(1, 30, format!("{{\"post_id\":\"{}\"}}", pk(20))), post(2, 20, 10), stale, insert(4, pk(11), "{}")];
    let verdict = phone.upload(&batch).await;
    let missing_of_first_two = missing(&Verdict { decisions: verdict.decisions[..2].to_vec(), ..verdict.clone() });
    assert_eq!(missing_of_first_two, [vec![name("posts", 20)], vec![name("users", 10)]]);
    assert!(matches!(verdict.decisions[2], Decision::Conflict(_)));
    assert_eq!(verdict.decisions[3], applied(1));
    let stream = phone.stream().await;
    assert_eq!(stream.iter().map(|change| (change.server_id.0, change.row.pk)).collect::<Vec<_>>(), [(1, pk(11))]);
}

/// A tombstone is no parent, whenever it came to be.
pub async fn a_deleted_parent_does_not_count<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    phone.apply([insert(1, pk(1), "{}"), insert(2, pk(2), "{}"), delete(3, pk(2), 1)]).await;
    assert_eq!(missing(&phone.upload([post(4, 10, 2)]).await), [vec![name("users", 2)]]);
    assert_eq!(missing(&phone.upload([delete(5, pk(1), 1), post(6, 11, 1)]).await), [vec![], vec![name("users", 1)]]);
    // One that is made again counts, before and after.
    let mut again = insert(8, pk(1), "{}");
    again.version = 2;
    assert_eq!(phone.apply([post(7, 12, 1), again, post(9, 13, 1)]).await, [1, 3, 1]);
}

/// Promise 4.
pub async fn a_parent_of_another_user_does_not_count<B: Backend>(world: &World<B>) {
    world.device("bob", "phone").apply([insert(1, pk(1), "{}")]).await;
    let verdict = world.device("alice", "phone").upload([post(1, 10, 1)]).await;
    assert_eq!(missing(&verdict), [vec![name("users", 1)]]);
}

/// UUID text in any usual form, or base64 of the 16 bytes; all else is malformed.
pub async fn a_reference_takes_every_form_of_a_key<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    let author = uuid::Uuid::from_u128(0x0193_fbef_0000_7000_8000_0000_0000_00ff);
    phone.apply([insert(1, author, "{}")]).await;
    let forms = [
        author.to_string(),
        author.to_string().to_uppercase(),
        author.simple().to_string(),
        author.braced().to_string(),
        author.urn().to_string(),
        "AZP77wAAcACAAAAAAAAA/w==".into(),
        "AZP77wAAcACAAAAAAAAA/w".into(),
        "AZP77wAAcACAAAAAAAAA_w".into(),
    ];
    let of = |value: &str| format!("{{\"author_id\":{value}}}");
    for (number, form) in forms.iter().enumerate() {
        let sent = insert(10 + number as i64, pk(number as u128), of(&format!("\"{form}\""))).of(None, "posts");
        assert_eq!(phone.apply([sent]).await, [1], "{form}");
    }
    for value in ["\"\"", "\"nobody\"", "7", "true", "[]", "{}", "\"AZP77wAAcACAAAAAAAAA\""] {
        let verdict = phone.upload([insert(99, pk(99), of(value)).of(None, "posts")]).await;
        assert_eq!(reason(&verdict.decisions[0]), Some(Reason::BadPayload), "{value}");
    }
}

/// What the rule leaves alone.
pub async fn null_absent_and_unregistered_references_are_not_checked<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    let batch = [
        comment(1, 1, "{}"),
        comment(2, 2, r#"{"post_id":null,"answers_id":null}"#),
        comment(3, 3, r#"{"thread_id":"whatever it is"}"#),
        comment(4, 4, r#"{"nested":{"post_id":"x"}}"#),
    ];
    assert_eq!(phone.apply(batch).await, [1; 4]);
}

/// Cycles and self-references.
pub async fn rows_may_refer_to_each_other_and_to_themselves<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    let user = insert(1, pk(1), format!("{{\"favourite_id\":\"{}\"}}", pk(2)));
    assert_eq!(phone.apply([user, post(2, 2, 1)]).await, [1, 1]);
    let own = comment(3, 3, format!("{{\"answers_id\":\"{}\"}}", pk(3)));
    assert_eq!(phone.apply([own]).await, [1]);
}

/// Rule 3 comes before rule 5.
pub async fn a_retry_is_not_asked_for_its_parents_again<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    let first = phone.upload([insert(1, pk(1), "{}"), post(2, 10, 1)]).await;
    phone.apply([delete(3, pk(1), 1)]).await;
    let again = phone.upload([insert(1, pk(1), "{}"), post(2, 10, 1)]).await;
    assert_eq!(versions(&again), versions(&first));
}

/// Only INSERT and UPDATE have parents.
pub async fn a_delete_needs_no_parent<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    phone.apply([insert(1, pk(1), "{}"), post(2, 10, 1), delete(3, pk(1), 1)]).await;
    assert_eq!(phone.apply([delete(4, pk(10), 1).of(None, "posts")]).await, [2]);
}
