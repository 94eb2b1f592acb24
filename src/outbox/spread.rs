use std::collections::HashMap;

/// The least that is asked for of a lane, where the window allows it.
const LEAST: u32 = 8;

/// How many rows are wanted of each lane. To ask each lane for the whole window means to read many times what is taken;
/// to ask for equal shares, that one lane which has all the rows is read in small bites. Pure.
#[derive(Default)]
pub(super) struct Spread {
    /// How many lanes had all that was wanted of them, when there were any.
    full: usize,
}

impl Spread {
    /// An equal share of each lane that had enough in the last look, and a quarter of all at most.
    pub(super) fn most_of_lane(&self, most: u32, lanes: usize) -> u32 {
        let full = if self.full == 0 { lanes } else { self.full };
        let full = u32::try_from(full).unwrap_or(u32::MAX).max(1);
        let quarter = most.div_ceil(4).max(1);
        most.div_ceil(full).clamp(LEAST.min(quarter), quarter)
    }

    /// Notes the lanes of the rows that were taken. Whether some lane has more, perhaps.
    pub(super) fn seen(&mut self, lanes: impl Iterator<Item = u32>, most_of_lane: u32) -> bool {
        let mut of_lane = HashMap::<u32, u32>::new();
        for lane in lanes {
            *of_lane.entry(lane).or_default() += 1;
        }
        self.full = of_lane
            .values()
            .filter(|taken| **taken >= most_of_lane)
            .count();
        self.full > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(spread: &mut Spread, of_lanes: &[u32], most: u32) -> (u32, bool) {
        let most_of_lane = spread.most_of_lane(most, of_lanes.len());
        let taken = (0..)
            .zip(of_lanes)
            .flat_map(|(lane, has)| std::iter::repeat_n(lane, (*has).min(most_of_lane) as usize));
        let has_more = spread.seen(taken, most_of_lane);
        (most_of_lane, has_more)
    }

    #[test]
    fn lanes_that_are_all_full_give_equal_shares() {
        let mut spread = Spread::default();
        for _ in 0..3 {
            assert_eq!(look(&mut spread, &[1000; 32], 512), (16, true));
        }
    }

    #[test]
    fn one_lane_that_has_all_is_asked_for_a_quarter_of_the_window_from_the_second_look_on() {
        let mut spread = Spread::default();
        let mut lanes = [0; 32];
        lanes[7] = 1000;
        lanes[9] = 3;
        assert_eq!(look(&mut spread, &lanes, 512), (16, true));
        assert_eq!(look(&mut spread, &lanes, 512), (128, true));
        lanes[7] = 100;
        assert_eq!(look(&mut spread, &lanes, 512), (128, false));
        assert_eq!(look(&mut spread, &[1000; 32], 512), (16, true));
    }

    #[test]
    fn a_small_window_is_never_exceeded_by_a_lane() {
        let spread = Spread::default();
        assert_eq!(spread.most_of_lane(1, 32), 1);
        assert_eq!(spread.most_of_lane(16, 32), 4);
        assert_eq!(spread.most_of_lane(100, 32), 8);
        assert_eq!(spread.most_of_lane(100, 0), 25);
    }
}
