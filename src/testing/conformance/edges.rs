//! Groups, patterns and types: the contract's words, its edges, and rule 12.

use super::Stage;
use super::props::{Count, Door, Effect, Journal, Note, TwinNote, Watcher, attempts, note};
use super::unmet::{Step, Unmet, holds, same};
use crate::bus::SubscribeError;
use crate::delivery::{Outcome, Reason};
use crate::message::RawMessage;
use crate::observe::QueueSnapshot;
use crate::ports::Refusal;
use crate::subscriber::{Context, RawSubscriber, Subscriber};

scenarios! {
    groups_each_get_a_copy_and_members_compete;
    a_member_that_differs_is_refused;
    overlapping_patterns_deliver_once;
    the_exact_type_wins_over_a_pattern;
    patterns_match_as_rabbitmqs_topic_exchange;
    two_rust_types_share_one_topic;
    rule_12_an_undecodable_body_is_a_dead_letter_and_the_others_flow;
    rule_12_names_that_cannot_be_are_errors;
    rule_12_a_body_over_the_limit_is_an_error;
    headers_and_key_arrive;
}

async fn groups_each_get_a_copy_and_members_compete(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let door = Door::shut();
    let counts: Vec<Count> = (0..3).map(|_| Count::default()).collect();
    for (index, group) in ["pair", "pair", "single"].into_iter().enumerate() {
        let (count, held) = (counts[index].clone(), door.clone());
        bus.subscribe_fn::<Note, _>(group, async move |_: &Note, _: &mut Context<'_>| {
            held.enter().await;
            count.up();
            Ok(())
        })
        .start()
        .await
        .step("subscribing")?;
    }
    let receipt = bus.publish(note(0)).await.step("publishing")?;
    // One a group.
    stage.taken_by(&receipt, 2)?;
    for n in 1..20 {
        bus.publish(note(n)).await.step("publishing")?;
    }
    stage
        .until("both members and the single one work", || {
            door.waiting() == 3
        })
        .await?;
    door.open();
    let what = "the single one handled";
    stage.comes(&bus, what, || counts[2].get(), 20).await?;
    let of_the_pair = || [counts[0].get(), counts[1].get()];
    let what = "the pair handled together";
    let together = || of_the_pair().iter().sum::<u32>();
    stage.comes(&bus, what, together, 20).await?;
    let pair = of_the_pair();
    holds(
        "each of the pair worked",
        pair.iter().all(|count| *count > 0),
        pair,
    )
}

async fn a_member_that_differs_is_refused(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let nothing = async |_: &Note, _: &mut Context<'_>| Ok(());
    let effect = async |_: &Effect, _: &mut Context<'_>| Ok(());
    bus.subscribe_fn::<Note, _>("group", nothing)
        .start()
        .await
        .step("subscribing")?;
    let mismatch = |what| {
        let name = "group".to_owned();
        Some(SubscribeError::GroupMismatch { name, what })
    };
    let other = bus.subscribe_fn::<Effect, _>("group", effect).start().await;
    same("another type", other.err(), mismatch("patterns"))?;
    let other = bus
        .subscribe_fn::<Note, _>("group", nothing)
        .workers(3)
        .start()
        .await;
    same("another order", other.err(), mismatch("order"))?;
    let other = bus
        .subscribe_fn::<Note, _>("group", nothing)
        .mailbox(3)
        .start()
        .await;
    same("another bound", other.err(), mismatch("mailbox depth"))?;
    let policy = attempts(9, stage.steps(9));
    let other = bus
        .subscribe_fn::<Note, _>("group", nothing)
        .retry(policy)
        .start()
        .await;
    same("another policy", other.err(), mismatch("retry policy"))?;
    let same_again = bus.subscribe_fn::<Note, _>("group", nothing).start().await;
    same_again.step("joining with the same")?;
    Ok(())
}

async fn overlapping_patterns_deliver_once(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let seen = Journal::new();
    let write = seen.clone();
    bus.subscriber("watcher", move || Watcher(write.clone()))
        .pattern("conformance.*")
        .pattern("conformance.#")
        .pattern("#")
        .pattern("conformance.note")
        .start()
        .await
        .step("subscribing")?;
    let receipt = bus.publish(note(1)).await.step("publishing")?;
    stage.taken_by(&receipt, 1)?;
    // A second copy of it would come before this.
    bus.publish(Effect { n: 1 }).await.step("publishing")?;
    let once = ["conformance.note", "conformance.effect"];
    stage.comes(&bus, "seen", || seen.read(), once).await
}

/// Handles notes by their type and everything by a pattern.
struct Both(Journal<&'static str>);

impl Subscriber<Note> for Both {
    async fn handle(&mut self, _: &Note, _: &mut Context<'_>) -> Outcome {
        self.0.write("type");
        Ok(())
    }
}

impl RawSubscriber for Both {
    async fn handle(&mut self, _: RawMessage<'_>, _: &mut Context<'_>) -> Outcome {
        self.0.write("pattern");
        Ok(())
    }
}

async fn the_exact_type_wins_over_a_pattern(stage: &Stage) -> Result<(), Unmet> {
    // However they are declared.
    for type_first in [true, false] {
        stage.anew().await?;
        let bus = stage.bus().await?;
        let seen = Journal::new();
        let write = seen.clone();
        let subscriber = bus.subscriber("both", move || Both(write.clone()));
        let started = if type_first {
            subscriber
                .on::<Note>()
                .pattern("conformance.#")
                .start()
                .await
        } else {
            subscriber
                .pattern("conformance.#")
                .on::<Note>()
                .start()
                .await
        };
        started.step("subscribing")?;
        bus.publish(note(1)).await.step("publishing")?;
        bus.publish(Effect { n: 1 }).await.step("publishing")?;
        let what = "who handled";
        stage
            .comes(&bus, what, || seen.read(), ["type", "pattern"])
            .await?;
    }
    Ok(())
}

async fn patterns_match_as_rabbitmqs_topic_exchange(stage: &Stage) -> Result<(), Unmet> {
    let cases = [
        ("a.b", &["a.b"][..]),
        ("a.*", &["a.b", "a.c"]),
        ("*.b", &["a.b"]),
        ("*", &["a"]),
        ("a.#", &["a", "a.b", "a.c", "a.b.c", "a.b.c.d"]),
        ("#.c", &["a.c", "a.b.c"]),
        ("a.#.c", &["a.c", "a.b.c"]),
        ("a.*.*", &["a.b.c"]),
        ("a.*.#", &["a.b", "a.c", "a.b.c", "a.b.c.d"]),
        ("#.#", &["a", "a.b", "a.c", "a.b.c", "a.b.c.d"]),
        ("b.#", &[]),
    ];
    let bus = stage.bus().await?;
    let mut journals = Vec::new();
    for (index, (pattern, _)) in cases.iter().enumerate() {
        let seen = Journal::new();
        let write = seen.clone();
        bus.subscriber(format!("watcher-{index}"), move || Watcher(write.clone()))
            .pattern(pattern)
            .pattern("end")
            .start()
            .await
            .step("subscribing")?;
        journals.push(seen);
    }
    // The last one goes to all: what one has seen by then is what its pattern matches, and no more.
    for topic in ["a", "a.b", "a.c", "a.b.c", "a.b.c.d", "end"] {
        bus.publish_raw(topic, serde_json::json!({}))
            .await
            .step("publishing")?;
    }
    for ((pattern, expected), seen) in cases.iter().zip(&journals) {
        let topics = expected.iter().chain(&["end"]);
        let topics: Vec<String> = topics.map(|topic| (*topic).to_owned()).collect();
        let what = format!("matches of {pattern}");
        stage.comes(&bus, &what, || seen.read(), topics).await?;
    }
    Ok(())
}

async fn two_rust_types_share_one_topic(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let (ours, theirs) = (Journal::new(), Journal::new());
    let (our, their) = (ours.clone(), theirs.clone());
    bus.subscribe_fn::<Note, _>("ours", async move |note: &Note, _: &mut Context<'_>| {
        our.write(note.clone());
        Ok(())
    })
    .start()
    .await
    .step("subscribing")?;
    bus.subscribe_fn::<TwinNote, _>(
        "theirs",
        async move |note: &TwinNote, _: &mut Context<'_>| {
            their.write(note.clone());
            Ok(())
        },
    )
    .start()
    .await
    .step("subscribing")?;
    let receipt = bus.publish(note(1)).await.step("publishing ours")?;
    stage.taken_by(&receipt, 2)?;
    let twin = |n, remark: &str| TwinNote {
        n,
        remark: remark.to_owned(),
    };
    bus.publish(twin(2, "new"))
        .await
        .step("publishing theirs")?;
    // What one type does not know is ignored; what the other misses has its default.
    let notes = [note(1), note(2)];
    stage.comes(&bus, "ours", || ours.read(), notes).await?;
    let twins = [twin(1, ""), twin(2, "new")];
    stage.comes(&bus, "theirs", || theirs.read(), twins).await
}

async fn rule_12_an_undecodable_body_is_a_dead_letter_and_the_others_flow(
    stage: &Stage,
) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let seen = Journal::new();
    let write = seen.clone();
    bus.subscribe_fn::<Note, _>("reading", async move |note: &Note, _: &mut Context<'_>| {
        write.write(note.n);
        Ok(())
    })
    .retry(attempts(3, stage.steps(1)))
    .start()
    .await
    .step("subscribing")?;
    let body = serde_json::json!({ "n": "not a number" });
    bus.publish(note(1)).await.step("publishing")?;
    let bad = bus
        .publish_raw("conformance.note", body)
        .await
        .step("publishing")?
        .id;
    bus.publish(note(2)).await.step("publishing")?;
    let good = serde_json::json!({ "n": 3, "unknown": [] });
    bus.publish_raw("conformance.note", good)
        .await
        .step("publishing")?;
    let ends = |queue: &QueueSnapshot| (queue.acked, queue.dead_lettered);
    stage
        .books_after(&bus, 10, "reading", "acked, dead-lettered", ends, (3, 1))
        .await?;
    same("handled", seen.read(), [1, 2, 3])?;
    let letters = stage.letters(&bus).await?;
    same("dead letters", letters.len(), 1)?;
    same("its message", letters[0].envelope().id(), bad)?;
    same("its reason", letters[0].reason, Reason::Undecodable)?;
    same("its attempts, by the policy", letters[0].attempts, 3)?;
    let body = letters[0]
        .json()
        .map(String::from_utf8_lossy)
        .step("reading it")?;
    same("its body", &*body, r#"{"n":"not a number"}"#)
}

async fn rule_12_names_that_cannot_be_are_errors(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let long = "x".repeat(256);
    for topic in ["", "a.*", "#", "a\nb", &long] {
        let refused = bus.publish_raw(topic, serde_json::json!(1)).await.err();
        let refused = refused.step("being refused for a topic")?;
        holds(
            topic,
            matches!(refused.kind(), Refusal::Name(_)),
            refused.kind(),
        )?;
    }
    let refused = bus
        .publish(note(1))
        .key(&long)
        .await
        .err()
        .step("being refused for a key")?;
    holds(
        "the key",
        matches!(refused.kind(), Refusal::Name(_)),
        refused.kind(),
    )?;
    let refused = bus.publish(note(1)).header(&long, "x").await.err();
    let refused = refused.step("being refused for a header")?;
    holds(
        "the header",
        matches!(refused.kind(), Refusal::Name(_)),
        refused.kind(),
    )?;
    same(
        "the message given back",
        refused.into_message(),
        Some(note(1)),
    )?;
    for name in ["", "a\u{7}b", &long] {
        let nothing = async |_: &Note, _: &mut Context<'_>| Ok(());
        let refused = bus
            .subscribe_fn::<Note, _>(name, nothing)
            .start()
            .await
            .err();
        let refused = refused.step("being refused for a group")?;
        holds(name, matches!(refused, SubscribeError::Name(_)), refused)?;
    }
    let pattern = bus
        .subscriber("watcher", || Watcher(Journal::new()))
        .pattern(&long)
        .start()
        .await;
    let refused = pattern.err().step("being refused for a pattern")?;
    holds(
        "the pattern",
        matches!(refused, SubscribeError::Name(_)),
        refused,
    )
}

async fn rule_12_a_body_over_the_limit_is_an_error(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus_with(|bus| bus.body_limit(20)).await?;
    let nothing = async |_: &TwinNote, _: &mut Context<'_>| Ok(());
    bus.subscribe_fn::<TwinNote, _>("reading", nothing)
        .start()
        .await
        .step("subscribing")?;
    let large = TwinNote {
        n: 1,
        remark: "x".repeat(20),
    };
    let refused = bus
        .publish(large.clone())
        .await
        .err()
        .step("being refused")?;
    let is_too_large = matches!(refused.kind(), Refusal::TooLarge { limit: 20, .. });
    holds("the refusal", is_too_large, refused.kind())?;
    same(
        "the message given back",
        refused.into_message(),
        Some(large),
    )?;
    bus.publish(note(1))
        .await
        .step("publishing within the limit")?;
    stage
        .books(&bus, "reading", "accepted", |queue| queue.accepted, 1)
        .await
}

async fn headers_and_key_arrive(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let seen = Journal::new();
    let write = seen.clone();
    bus.subscribe_fn::<Note, _>("reading", async move |_: &Note, cx: &mut Context<'_>| {
        let envelope = cx.envelope();
        let header = envelope.header("tenant").map(ToOwned::to_owned);
        write.write((envelope.id(), envelope.key().map(ToOwned::to_owned), header));
        Ok(())
    })
    .start()
    .await
    .step("subscribing")?;
    let with = bus
        .publish(note(1))
        .key("k")
        .header("tenant", "t")
        .await
        .step("publishing")?
        .id;
    let without = bus.publish(note(2)).await.step("publishing")?.id;
    let (key, tenant) = (Some("k".to_owned()), Some("t".to_owned()));
    let expected = [(with, key, tenant), (without, None, None)];
    let what = "id, key and header";
    stage.comes(&bus, what, || seen.read(), expected).await
}
