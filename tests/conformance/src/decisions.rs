//! The decision table of the protocol, row by row.

use outrigger_domain::{Decision, Reason};

use crate::world::*;

/// Rule 1.
pub async fn a_malformed_change_is_bad_payload<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    let good = insert(1, pk(1), "{}");
    let with = |mend: fn(&mut Sent)| {
        let mut sent = good.clone();
        mend(&mut sent);
        sent
    };
    let malformed = [
        with(|sent| sent.id = 0),
        with(|sent| sent.id = -1),
        with(|sent| sent.version = -1),
        with(|sent| sent.op = "UPSERT"),
        with(|sent| sent.op = ""),
        with(|sent| sent.pk = "not a uuid".into()),
        with(|sent| sent.pk = String::new()),
        with(|sent| sent.table = ""),
        with(|sent| sent.table = "users; --"),
        with(|sent| sent.schema = Some("")),
        with(|sent| sent.schema = Some("pub.lic")),
        with(|sent| sent.payload = None),
        with(|sent| sent.payload = Some("null".into())),
        with(|sent| sent.payload = Some("[1]".into())),
        with(|sent| sent.payload = Some("\"text\"".into())),
        with(|sent| sent.payload = Some(format!("{{\"a\":\"{}\"}}", "x".repeat(PAYLOAD_BYTES_MAX)))),
        with(|sent| sent.payload = Some(format!("{{\"a\":{}{}}}", "[".repeat(5_000), "]".repeat(5_000)))),
        with(|sent| sent.op = "DELETE"),
    ];
    let verdict = phone.upload(&malformed).await;
    for (sent, decision) in malformed.iter().zip(&verdict.decisions) {
        assert_eq!(reason(decision), Some(Reason::BadPayload), "{sent:?}");
    }
    assert!(verdict.accepted);
    assert_eq!(phone.stream().await, []);
}

/// Rule 2.
pub async fn an_unregistered_table_is_refused_and_the_rest_goes_on<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    let verdict = phone
        .upload([
            insert(1, pk(1), "{}").of(None, "secrets"),
            insert(2, pk(2), "{}"),
            insert(3, pk(3), "{}").of(Some("business"), "posts"),
        ])
        .await;
    assert!(!verdict.accepted);
    assert_eq!(reason(&verdict.decisions[0]), Some(Reason::UnregisteredTable));
    assert_eq!(verdict.decisions[1], applied(1));
    assert_eq!(reason(&verdict.decisions[2]), Some(Reason::UnregisteredTable));
    assert_eq!(phone.stream().await.len(), 1);
}

/// The order of the rules.
pub async fn the_first_matching_rule_wins<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    phone.apply([insert(1, pk(1), "{}")]).await;
    let mut malformed_and_unregistered = insert(2, pk(1), "[]").of(None, "secrets");
    malformed_and_unregistered.version = 7;
    let reused_and_unregistered = insert(1, pk(2), "{}").of(None, "secrets");
    let reused_and_stale = update(1, pk(1), 9, r#"{"a":1}"#);
    let verdict = phone.upload([malformed_and_unregistered, reused_and_unregistered, reused_and_stale]).await;
    let reasons: Vec<_> = verdict.decisions.iter().filter_map(reason).collect();
    assert_eq!(reasons, [Reason::BadPayload, Reason::UnregisteredTable, Reason::SourceChangeIdReused]);
}

/// Rule 3.
pub async fn a_retry_is_told_what_the_first_try_was_told<B: Backend>(world: &World<B>) {
    let (phone, tablet) = (world.device("alice", "phone"), world.device("alice", "tablet"));
    let batch = [insert(1, pk(1), r#"{"a":1.0}"#), update(2, pk(1), 1, r#"{"a":2}"#), delete(3, pk(1), 2)];
    let first = phone.upload(&batch).await;
    assert_eq!(versions(&first), [1, 2, 3]);
    assert_eq!(phone.upload(&batch).await, first);
    // Still so after others went on with the row, and however the payload is written.
    tablet.apply([update(1, pk(1), 3, "{}")]).await;
    assert_eq!(versions(&phone.upload([insert(1, pk(1), r#"{ "a" : 1 }"#), delete(3, pk(1), 2)]).await), [1, 3]);
    assert_eq!(phone.stream().await.len(), 4);
}

/// Rule 4.
pub async fn a_reused_id_is_refused<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    phone.apply([insert(1, pk(1), r#"{"a":1}"#)]).await;
    let others = [
        insert(1, pk(1), r#"{"a":2}"#),
        insert(1, pk(2), r#"{"a":1}"#),
        insert(1, pk(1), r#"{"a":1}"#).of(None, "posts"),
        insert(1, pk(1), r#"{"a":1}"#).of(Some("business"), "users"),
        update(1, pk(1), 1, r#"{"a":1}"#),
        delete(1, pk(1), 1),
    ];
    for (sent, decision) in others.iter().zip(phone.upload(&others).await.decisions) {
        assert_eq!(reason(&decision), Some(Reason::SourceChangeIdReused), "{sent:?}");
    }
    assert_eq!(phone.stream().await.len(), 1);
}

/// Rules 3 and 4 inside one request.
pub async fn a_key_sent_twice_in_one_request_is_decided_against_the_first<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    let verdict = phone
        .upload([insert(1, pk(1), "{}"), insert(1, pk(1), "{}"), insert(1, pk(2), "{}"), update(2, pk(1), 1, "{}")])
        .await;
    assert_eq!(verdict.decisions[..2], [applied(1), applied(1)]);
    assert_eq!(reason(&verdict.decisions[2]), Some(Reason::SourceChangeIdReused));
    assert_eq!(verdict.decisions[3], applied(2));
    assert_eq!(phone.stream().await.len(), 2);
}

/// Rule 3: the key is (user, source, id).
pub async fn a_key_belongs_to_its_source<B: Backend>(world: &World<B>) {
    let (phone, tablet) = (world.device("alice", "phone"), world.device("alice", "tablet"));
    phone.apply([insert(1, pk(1), "{}")]).await;
    assert_eq!(tablet.apply([insert(1, pk(2), "{}")]).await, [1]);
    let verdict = tablet.upload([insert(2, pk(1), "{}")]).await;
    assert_eq!(verdict.decisions, [server_row(1, 1, Some("{}"))]);
}

/// An invalid change leaves no trace, and a conflict none that keeps another change from its number.
pub async fn a_refused_change_does_not_use_up_its_key<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    let verdict = phone.upload([insert(1, pk(1), "[]"), update(2, pk(2), 5, "{}")]).await;
    assert!(!verdict.decisions.iter().any(Decision::is_applied));
    assert_eq!(phone.apply([insert(1, pk(1), "{}"), insert(2, pk(2), "{}")]).await, [1, 1]);
}

/// Rule 6.
pub async fn deleting_an_unseen_row_is_applied_without_a_trace<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    let verdict = phone.upload([delete(1, pk(1), 0), delete(2, pk(2), 7)]).await;
    assert_eq!(verdict.decisions, [Decision::Applied { version: None }, Decision::Applied { version: None }]);
    assert_eq!(verdict.head.seq.0, 0);
    assert_eq!(phone.stream().await, []);
    assert_eq!(phone.apply([insert(1, pk(1), "{}")]).await, [1]);
}

/// Rule 7.
pub async fn deleting_a_tombstone_at_its_version_is_applied_without_a_trace<B: Backend>(world: &World<B>) {
    let (phone, tablet) = (world.device("alice", "phone"), world.device("alice", "tablet"));
    phone.apply([insert(1, pk(1), "{}"), delete(2, pk(1), 1)]).await;
    let verdict = tablet.upload([delete(1, pk(1), 2), delete(2, pk(1), 1)]).await;
    assert_eq!(verdict.decisions, [applied(2), server_row(1, 2, None)]);
    assert_eq!(phone.stream().await.len(), 2);
}

/// Rule 8, for every op.
pub async fn the_named_version_decides<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    assert_eq!(phone.apply([update(1, pk(1), 0, r#"{"n":1}"#)]).await, [1]);
    let mut insert_at_1 = insert(2, pk(1), r#"{"n":2}"#);
    insert_at_1.version = 1;
    assert_eq!(phone.apply([insert_at_1]).await, [2]);
    let mut upper = update(3, pk(1), 2, r#"{"n":3}"#);
    (upper.op, upper.table, upper.schema) = ("uPdAtE", " Users ", Some("PUBLIC"));
    upper.pk = upper.pk.to_uppercase();
    assert_eq!(phone.apply([upper]).await, [3]);
    assert_eq!(phone.apply([delete(4, pk(1), 3)]).await, [4]);
    let stream = phone.stream().await;
    let ops: Vec<_> = stream.iter().map(|change| change.op.as_str()).collect();
    assert_eq!(ops, ["UPDATE", "INSERT", "UPDATE", "DELETE"]);
}

/// Rule 9.
pub async fn a_stale_change_is_a_conflict_with_the_row<B: Backend>(world: &World<B>) {
    let (phone, tablet) = (world.device("alice", "phone"), world.device("alice", "tablet"));
    phone.apply([insert(1, pk(1), r#"{"n":1}"#), update(2, pk(1), 1, r#"{"n":2}"#)]).await;
    let expected = server_row(1, 2, Some(r#"{"n":2}"#));
    let stale = [
        update(1, pk(1), 1, "{}"),
        insert(2, pk(1), "{}"),
        delete(3, pk(1), 1),
        delete(4, pk(1), 0),
        update(5, pk(1), 3, "{}"),
    ];
    for sent in stale {
        assert_eq!(
            tablet.upload(std::slice::from_ref(&sent)).await.decisions,
            std::slice::from_ref(&expected),
            "{sent:?}"
        );
    }
    assert_eq!(phone.stream().await.len(), 2);
}

/// Rule 9: rows without a payload.
pub async fn a_conflict_shows_a_tombstone_and_an_unknown_row<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    phone.apply([insert(1, pk(1), "{}"), delete(2, pk(1), 1)]).await;
    let verdict = phone.upload([update(3, pk(1), 1, "{}"), update(4, pk(2), 3, "{}")]).await;
    assert_eq!(verdict.decisions, [server_row(1, 2, None), server_row(2, 0, None)]);
    assert!(verdict.accepted);
}

/// Changes of one request are decided in their order.
pub async fn changes_of_one_request_see_each_other<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    let chain = [
        insert(1, pk(1), r#"{"n":1}"#),
        update(2, pk(1), 1, r#"{"n":2}"#),
        delete(3, pk(1), 2),
        delete(4, pk(1), 3),
        insert(5, pk(2), "{}"),
    ];
    assert_eq!(phone.apply(chain).await, [1, 2, 3, 3, 1]);
    let stream = phone.stream().await;
    let logged: Vec<_> = stream.iter().map(|change| (change.source_change_id.0, change.version.0)).collect();
    assert_eq!(logged, [(1, 1), (2, 2), (3, 3), (5, 1)]);
    // The rows are left as the last change of each made them.
    let verdict = phone.upload([update(6, pk(1), 1, "{}"), update(7, pk(2), 0, "{}")]).await;
    assert_eq!(verdict.decisions, [server_row(1, 3, None), server_row(2, 1, Some("{}"))]);
}

/// A conflict later in a request shows the effect of what came before it.
pub async fn a_conflict_in_a_chain_shows_what_the_chain_made<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    phone.apply([insert(1, pk(1), r#"{"n":1}"#)]).await;
    let verdict = phone.upload([update(2, pk(1), 1, r#"{"n":2}"#), update(3, pk(1), 1, r#"{"n":3}"#)]).await;
    assert_eq!(verdict.decisions, [applied(2), server_row(1, 2, Some(r#"{"n":2}"#))]);
    // The same the other way round: the conflict comes first and shows the row as it was.
    let verdict = phone.upload([update(4, pk(1), 1, "{}"), update(5, pk(1), 2, r#"{"n":5}"#)]).await;
    assert_eq!(verdict.decisions, [server_row(1, 2, Some(r#"{"n":2}"#)), applied(3)]);
}

/// Good and bad changes mixed.
pub async fn one_bad_change_blocks_no_other<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    let verdict = phone
        .upload([
            insert(1, pk(1), "{}"),
            insert(2, pk(2), "[]"),
            update(3, pk(3), 4, "{}"),
            insert(4, pk(4), "{}").of(None, "nope"),
            insert(5, pk(5), "{}"),
        ])
        .await;
    let outcome: Vec<_> = verdict.decisions.iter().map(Decision::is_applied).collect();
    assert_eq!(outcome, [true, false, false, false, true]);
    let stream = phone.stream().await;
    assert_eq!(stream.iter().map(|change| change.server_id.0).collect::<Vec<_>>(), [1, 2]);
}

/// A tombstone keeps its version and takes the next one on its return.
pub async fn a_deleted_row_can_be_made_again<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    phone.apply([insert(1, pk(1), "{}"), delete(2, pk(1), 1)]).await;
    let verdict = phone.upload([insert(3, pk(1), "{}")]).await;
    assert_eq!(verdict.decisions, [server_row(1, 2, None)]);
    let mut again = insert(4, pk(1), r#"{"again":true}"#);
    again.version = 2;
    assert_eq!(phone.apply([again]).await, [3]);
    let verdict = phone.upload([delete(5, pk(1), 2)]).await;
    assert_eq!(verdict.decisions, [server_row(1, 3, Some(r#"{"again":true}"#))]);
}

/// The limit of changes in one upload.
pub async fn an_upload_over_the_limit_is_refused_whole<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    phone.apply([insert(9_999, pk(9_999), "{}")]).await;
    let count = UPLOAD_CHANGES_MAX + 1;
    let batch: Vec<_> = (1..=count).map(|n| insert(n as i64, pk(n as u128), "{}")).collect();
    let verdict = phone.upload(&batch).await;
    assert!(!verdict.accepted);
    assert_eq!(verdict.head.seq.0, 1);
    assert_eq!(verdict.decisions.len(), count);
    assert!(verdict.decisions.iter().all(|decision| reason(decision) == Some(Reason::BatchTooLarge)));
    assert_eq!(phone.stream().await.len(), 1);
    assert_eq!(phone.apply(&batch[1..]).await.len(), UPLOAD_CHANGES_MAX);
}

/// Nothing to say is fine.
pub async fn an_empty_upload_is_accepted<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    phone.apply([insert(1, pk(1), "{}")]).await;
    let verdict = phone.upload([]).await;
    assert!(verdict.accepted && verdict.decisions.is_empty());
    assert_eq!(verdict.head.seq.0, 1);
}

/// `atomic`, when all goes well.
pub async fn an_atomic_upload_applies_whole<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    let batch = [insert(1, pk(1), "{}"), update(2, pk(1), 1, "{}"), delete(3, pk(9), 0)];
    let verdict = phone.upload_atomic(&batch).await;
    assert!(verdict.accepted);
    assert_eq!(verdict.decisions, [applied(1), applied(2), Decision::Applied { version: None }]);
    assert_eq!(phone.upload_atomic(&batch).await, verdict);
    assert_eq!(phone.stream().await.len(), 2);
}

/// `atomic`, when one change is not applied.
pub async fn an_atomic_upload_with_one_conflict_leaves_no_trace<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    phone.apply([insert(1, pk(1), r#"{"n":1}"#)]).await;
    let batch = [
        insert(2, pk(2), "{}"),
        update(3, pk(1), 1, r#"{"n":2}"#),
        update(4, pk(1), 1, r#"{"n":3}"#),
        insert(5, pk(3), "[]"),
        delete(6, pk(8), 0),
    ];
    let verdict = phone.upload_atomic(&batch).await;
    assert!(!verdict.accepted);
    let reasons: Vec<_> = verdict.decisions.iter().map(reason).collect();
    let aborted = Some(Reason::BatchAborted);
    assert_eq!(reasons, [aborted, aborted, None, Some(Reason::BadPayload), aborted]);
    // The conflict shows the row as it is, not as the undone change would have made it.
    assert_eq!(verdict.decisions[2], server_row(1, 1, Some(r#"{"n":1}"#)));
    assert_eq!(verdict.head.seq.0, 1);
    assert_eq!(phone.stream().await.len(), 1);
}

/// An aborted upload used up no key and no number.
pub async fn an_aborted_upload_may_be_sent_again<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    let verdict = phone.upload_atomic([insert(1, pk(1), "{}"), update(2, pk(2), 3, "{}")]).await;
    assert!(!verdict.accepted);
    let verdict = phone.upload_atomic([insert(1, pk(1), "{}"), insert(2, pk(2), "{}")]).await;
    assert_eq!(versions(&verdict), [1, 1]);
    assert_eq!(verdict.head.seq.0, 2);
}

/// Promise 1 holds inside an aborted upload too.
pub async fn an_aborted_upload_still_confirms_what_was_applied_before<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    phone.apply([insert(1, pk(1), "{}")]).await;
    let verdict = phone
        .upload_atomic([
            insert(1, pk(1), "{}"),
            insert(2, pk(2), "{}"),
            insert(2, pk(2), "{}"),
            update(3, pk(3), 1, "{}"),
        ])
        .await;
    assert!(!verdict.accepted);
    assert_eq!(verdict.decisions[0], applied(1));
    assert_eq!(verdict.decisions[1..3].iter().map(reason).collect::<Vec<_>>(), [Some(Reason::BatchAborted); 2]);
    assert_eq!(verdict.decisions[3], server_row(3, 0, None));
}
