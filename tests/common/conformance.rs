//! The contract over queues that are not in memory: on RabbitMQ, or in a database.

use postroom::testing::conformance::{Backing, Verdict, run_blocking, scenarios};

/// Scenarios by the feature that they look at.
pub(crate) type Skipped = &'static [(&'static str, &'static [&'static str])];

/// What the contract does not promise for queues that are not in memory, by the feature; why is said at `Features`.
pub(crate) const OUTSIDE_OF_MEMORY: Skipped = &[
    (
        "local_acceptance",
        &[
            "rule_1_a_publish_is_all_or_nothing",
            "rule_1_a_dropped_waiting_publish_publishes_nothing",
            "rule_1_a_waiting_publish_is_accepted_when_there_is_room",
            "rule_1_a_wait_has_a_deadline_and_gives_the_message_back",
            "rule_2_overflow_wait_holds_the_publisher",
            "rule_2_overflow_fail_refuses_at_once",
            "rule_9_a_full_target_is_waited_for",
            "rule_10_a_waiting_publish_is_refused",
            "a_request_to_a_full_queue_says_so",
            "a_refused_replay_keeps_the_dead_letter",
        ],
    ),
    (
        "drop_policies",
        &[
            "rule_2_overflow_drop_newest_is_counted",
            "rule_2_overflow_drop_oldest_is_counted",
            "rule_2_a_drop_in_one_queue_leaves_the_others",
            "a_request_that_was_dropped_says_so",
        ],
    ),
    ("parked_half", &["rule_7_a_waiting_lane_parks_at_most_half"]),
    (
        "dead_letter_bound",
        &["the_oldest_dead_letter_is_evicted_and_counted"],
    ),
];

/// Nothing fails, and nothing is skipped but what is not promised.
#[allow(
    clippy::print_stdout,
    reason = "the table is read in the test's output"
)]
pub(crate) fn check(backing: impl Backing, not_promised: &[Skipped]) {
    let report = run_blocking(backing);
    println!("{report}");
    report.assert_passed();
    assert_eq!(report.lines().len(), scenarios().len());
    let not_promised = || not_promised.iter().copied().flatten();
    for (feature, expected) in not_promised() {
        let skipped: Vec<&str> = report
            .lines()
            .iter()
            .filter(|line| line.verdict == Verdict::Skipped(feature))
            .map(|line| line.scenario)
            .collect();
        assert_eq!(skipped, *expected, "skipped for {feature}");
    }
    let promised = report
        .lines()
        .iter()
        .filter(|line| line.verdict == Verdict::Passed)
        .count();
    let not_promised: usize = not_promised().map(|(_, names)| names.len()).sum();
    assert_eq!(promised + not_promised, scenarios().len());
}
