//! The whole contract over queues in memory: each scenario a test of its own, once with messages handed over
//! as they are and once encoded as over AMQP.

use std::sync::Arc;

use postroom::BoxFuture;
use postroom::testing::conformance::{
    Backing, Features, InProcess, Isolated, Verdict, run, scenarios,
};

/// What queues in memory do not promise, by the scenario that looks at it.
const NOT_PROMISED: &[(&str, &str)] = &[
    ("what_was_accepted_survives_a_restart", "survives_restart"),
    ("a_delayed_message_survives_a_restart", "schedules_survive"),
];

fn check(name: &str, backing: impl Backing) {
    let scenario = scenarios()
        .into_iter()
        .find(|scenario| scenario.name() == name)
        .unwrap_or_else(|| panic!("there is no scenario `{name}`"));
    let not_promised = NOT_PROMISED.iter().find(|(known, _)| *known == name);
    match (scenario.run(backing).verdict, not_promised) {
        (Verdict::Passed, None) => {}
        (Verdict::Skipped(feature), Some((_, expected))) => assert_eq!(feature, *expected),
        (Verdict::Failed(unmet), _) => panic!("{unmet}"),
        (verdict, _) => panic!("{verdict:?}"),
    }
}

macro_rules! tests {
    ($($name:ident)*) => {
        const TESTED: &[&str] = &[$(stringify!($name)),*];

        mod in_process {
            $(#[test] fn $name() { super::check(stringify!($name), super::InProcess::new()); })*
        }

        mod encoded {
            $(#[test] fn $name() { super::check(stringify!($name), super::InProcess::encoded()); })*
        }
    };
}

/// Finds out at the first question that it cannot be there.
struct Unset;

impl Backing for Unset {
    fn name(&self) -> String {
        "unset".to_owned()
    }

    fn features(&self) -> Features {
        panic!("its variable is not set")
    }

    fn isolate(&self) -> BoxFuture<'_, Result<Isolated, String>> {
        unreachable!("nobody comes so far")
    }
}

#[tokio::test]
#[should_panic(expected = "its variable is not set")]
async fn a_suite_that_cannot_be_run_does_not_pass() {
    run(Unset).await.assert_passed();
}

#[test]
fn what_holds_a_backing_is_one() {
    let shared: Arc<dyn Backing> = Arc::new(InProcess::new());
    let boxed: Box<dyn Backing> = Box::new(InProcess::encoded());
    let lasting: &'static InProcess = Box::leak(Box::new(InProcess::new()));
    let scenario = scenarios()[0];
    let lines = [
        scenario.run(Arc::clone(&shared)),
        scenario.run(shared),
        scenario.run(boxed),
        scenario.run(lasting),
    ];
    for line in lines {
        assert_eq!(line.verdict, Verdict::Passed);
    }
}

#[test]
fn every_scenario_is_a_test() {
    let all: Vec<_> = scenarios().iter().map(|scenario| scenario.name()).collect();
    assert_eq!(all, TESTED);
}

#[tokio::test]
async fn the_suite_runs_as_a_whole() {
    let report = run(InProcess::new()).await;
    report.assert_passed();
    assert_eq!(report.lines().len(), TESTED.len());
    let skipped: Vec<_> = report
        .lines()
        .iter()
        .filter(|line| matches!(line.verdict, Verdict::Skipped(_)))
        .map(|line| line.scenario)
        .collect();
    let not_promised = NOT_PROMISED.iter().map(|(name, _)| *name);
    assert_eq!(skipped, not_promised.collect::<Vec<_>>());
    let table = report.to_string();
    assert!(table.starts_with("conformance of in-process\n"), "{table}");
}

tests! {
    rule_1_a_receipt_counts_the_queues
    rule_1_a_publish_is_all_or_nothing
    rule_1_a_dropped_waiting_publish_publishes_nothing
    rule_1_a_waiting_publish_is_accepted_when_there_is_room
    rule_1_a_wait_has_a_deadline_and_gives_the_message_back
    rule_1_a_command_to_no_queue_is_an_error
    rule_1_nobody_means_no_queue_not_no_worker
    rule_1_a_command_queue_has_one_home
    rule_1_a_stopped_subscriber_gets_nothing
    rule_2_overflow_wait_holds_the_publisher
    rule_2_overflow_fail_refuses_at_once
    rule_2_overflow_drop_newest_is_counted
    rule_2_overflow_drop_oldest_is_counted
    rule_2_a_drop_in_one_queue_leaves_the_others
    rule_2_a_credit_is_held_until_settlement
    rule_2_waiting_retries_hold_at_most_half
    rule_3_an_error_is_not_a_success
    rule_3_a_panic_is_not_a_success
    rule_3_a_timeout_is_not_a_success
    rule_3_a_panic_after_the_work_is_not_a_success
    rule_4_attempts_are_exact
    rule_4_attempts_are_exact_however_they_fail
    rule_4_the_last_attempt_may_succeed
    rule_4_the_attempt_is_visible
    rule_6_retry_after_waits_that_long
    rule_6_reject_is_a_dead_letter_at_once
    rule_6_discard_is_gone_but_for_its_count
    rule_6_the_policy_classifies_errors
    rule_6_waits_grow_to_the_cap
    rule_6_immediate_retries_need_no_time
    rule_6_a_waiting_retry_holds_no_worker
    rule_6_an_open_breaker_spends_no_attempts
    rule_7_fifo_keeps_the_order_of_acceptance
    rule_7_fifo_handles_one_at_a_time
    rule_7_a_delayed_retry_goes_behind_in_fifo
    rule_7_keyed_keeps_the_order_of_a_key_over_retries
    rule_7_keyed_runs_other_lanes_on
    rule_7_keyed_handles_one_of_a_key_at_a_time
    rule_7_a_dead_lettered_key_lets_its_successors_go_on
    rule_7_a_waiting_lane_parks_at_most_half
    rule_7_a_hold_over_the_cap_is_refused_at_start
    rule_7_unordered_workers_really_run_at_once
    rule_8_a_panic_replaces_the_handler_and_keeps_the_queue
    rule_8_a_timeout_replaces_the_handler_and_keeps_the_queue
    rule_8_an_error_keeps_the_handler
    rule_8_a_panic_in_drop_is_survived
    rule_8_a_failing_factory_is_tried_again
    rule_8_too_many_restarts_suspend_until_resumed
    rule_8_one_poison_message_counts_once
    rule_9_sends_are_released_in_order
    rule_9_a_failed_attempt_sends_nothing
    rule_9_sends_wait_for_the_handlers_end
    rule_9_correlation_and_causation_are_filled_in
    rule_9_a_continuation_into_its_own_full_queue_does_not_deadlock
    rule_9_a_full_target_is_waited_for
    rule_9_an_impossible_release_fails_the_attempt
    rule_10_a_shutdown_drains
    rule_10_releases_are_accepted_while_it_drains
    rule_10_what_is_left_is_abandoned_and_named
    rule_10_a_handler_that_never_ends_is_cut_off
    rule_10_a_publish_afterwards_is_an_error
    rule_10_a_waiting_publish_is_refused
    what_was_accepted_survives_a_restart
    groups_each_get_a_copy_and_members_compete
    a_member_that_differs_is_refused
    overlapping_patterns_deliver_once
    the_exact_type_wins_over_a_pattern
    patterns_match_as_rabbitmqs_topic_exchange
    two_rust_types_share_one_topic
    rule_12_an_undecodable_body_is_a_dead_letter_and_the_others_flow
    rule_12_names_that_cannot_be_are_errors
    rule_12_a_body_over_the_limit_is_an_error
    headers_and_key_arrive
    a_request_has_its_reply
    a_reply_comes_after_a_retry
    a_request_to_no_queue_says_so
    a_request_to_a_full_queue_says_so
    a_request_that_became_a_dead_letter_says_so
    a_request_that_was_discarded_says_so
    a_request_that_was_dropped_says_so
    a_request_without_a_reply_times_out_and_the_late_reply_is_counted
    a_reply_of_another_type_is_undecodable
    a_request_whose_queue_ends_loses_its_reply_path
    a_request_of_a_handler_to_itself_would_deadlock
    a_handler_may_ask_another
    an_expired_message_is_not_handed_over
    expiry_runs_on_while_a_retry_waits
    a_request_to_a_paused_queue_times_out
    a_delayed_message_comes_when_it_is_due
    a_cancelled_message_never_comes
    a_message_for_the_past_comes_at_once
    a_due_message_waits_for_room
    a_delayed_send_of_a_handler_counts_from_its_release
    the_schedule_is_bounded
    a_delayed_message_survives_a_restart
    a_pause_spends_no_attempts
    a_dead_letter_says_what_happened
    a_dead_letter_is_told_as_an_event
    a_replay_keeps_the_id_and_resets_the_attempts
    a_replay_goes_only_to_the_queue_that_gave_up
    a_refused_replay_keeps_the_dead_letter
    a_discarded_dead_letter_is_gone
    the_oldest_dead_letter_is_evicted_and_counted
}
