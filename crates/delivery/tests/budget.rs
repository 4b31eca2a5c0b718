//! The two ledgers against a model: nothing leaks, nothing is granted twice, promises are kept.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use watershed_delivery::{Budget, Charge, Exhausted, Permit};

#[derive(Clone, Debug)]
enum Step {
    Take(u64),
    Overdraw(u64),
    Clone(usize),
    Cover(usize, u64),
    TryCover(usize, u64),
    Trim(usize, u64),
    Drop(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (index, bytes) = (0_usize..32, 0_u64..1500);
    prop_oneof![
        bytes.clone().prop_map(Step::Take),
        bytes.clone().prop_map(Step::Overdraw),
        index.clone().prop_map(Step::Clone),
        (index.clone(), bytes.clone()).prop_map(|(index, bytes)| Step::Cover(index, bytes)),
        (index.clone(), bytes.clone()).prop_map(|(index, bytes)| Step::TryCover(index, bytes)),
        (index.clone(), bytes).prop_map(|(index, bytes)| Step::Trim(index, bytes)),
        index.prop_map(Step::Drop),
    ]
}

const LIMIT: u64 = 1000;

proptest! {
    #[test]
    fn the_physical_ledger_is_the_sum_of_the_grants(steps in prop::collection::vec(step(), 0..80)) {
        let budget = Budget::new(LIMIT);
        // Each permit with the index of its grant; the model holds the bytes of each grant.
        let mut permits: Vec<(Permit, usize)> = Vec::new();
        let mut grants: Vec<u64> = Vec::new();
        for step in steps {
            let used: u64 = used(&permits, &grants);
            let room = LIMIT.saturating_sub(used);
            match step {
                Step::Take(bytes) => match budget.try_take(bytes) {
                    Ok(permit) => {
                        prop_assert!(bytes <= room || bytes == 0);
                        permits.push((permit, grants.len()));
                        grants.push(bytes);
                    }
                    Err(Exhausted::ForEver) => prop_assert!(bytes > LIMIT),
                    Err(Exhausted::ForNow) => prop_assert!(bytes > 0 && (bytes > room || used > LIMIT)),
                },
                Step::Overdraw(bytes) => {
                    permits.push((budget.overdraw(bytes), grants.len()));
                    grants.push(bytes);
                }
                _ if permits.is_empty() => {}
                Step::Clone(index) => {
                    let copy = permits[index % permits.len()].clone();
                    permits.push(copy);
                }
                Step::Cover(index, bytes) => {
                    let (permit, grant) = &permits[index % permits.len()];
                    permit.cover(bytes);
                    grants[*grant] = grants[*grant].max(bytes);
                }
                Step::TryCover(index, bytes) => {
                    let (permit, grant) = &permits[index % permits.len()];
                    let more = bytes.saturating_sub(grants[*grant]);
                    let taken = permit.try_cover(bytes);
                    prop_assert_eq!(taken.is_ok(), more == 0 || (used <= LIMIT && more <= room));
                    prop_assert_eq!(taken == Err(Exhausted::ForEver), more > 0 && bytes > LIMIT);
                    if taken.is_ok() {
                        grants[*grant] = grants[*grant].max(bytes);
                    }
                }
                Step::Trim(index, bytes) => {
                    let (permit, grant) = &permits[index % permits.len()];
                    permit.trim(bytes);
                    grants[*grant] = grants[*grant].min(bytes);
                }
                Step::Drop(index) => {
                    let index = index % permits.len();
                    permits.swap_remove(index);
                }
            }
            prop_assert_eq!(budget.used(), self::used(&permits, &grants));
        }
        permits.clear();
        prop_assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_reserved_share_is_never_taken_by_another(
        reserved in prop::collection::vec(0_u64..400, 1..4),
        steps in prop::collection::vec((0_usize..4, 0_u64..700, any::<bool>()), 0..80),
    ) {
        let budget = Budget::new(LIMIT);
        let shares: Vec<_> = reserved.iter().map(|bytes| budget.share(*bytes)).collect();
        let mut charges: Vec<(usize, u64, Charge)> = Vec::new();
        for (index, bytes, give_back) in steps {
            let index = index % shares.len();
            if give_back && !charges.is_empty() {
                charges.swap_remove(bytes as usize % charges.len());
                continue;
            }
            let held = shares[index].used();
            match shares[index].try_charge(bytes) {
                Some(charge) => charges.push((index, bytes, charge)),
                None => prop_assert!(
                    held > 0 && held + bytes > shares[index].reserved(),
                    "what fits the reserve, and the first message of all, is always taken"
                ),
            }
            for (at, share) in shares.iter().enumerate() {
                let sum: u64 = charges.iter().filter(|(of, ..)| *of == at).map(|(_, bytes, _)| bytes).sum();
                prop_assert_eq!(share.used(), sum);
            }
        }
        charges.clear();
        // All that was borrowed is back: one share can borrow everything that nobody reserved.
        let spare = LIMIT - shares.iter().map(|share| share.reserved()).sum::<u64>();
        let first = shares[0].try_charge(1);
        prop_assert!(first.is_some());
        let rest = shares[0].reserved() + spare - 1;
        prop_assert!(shares[0].try_charge(rest).is_some());
        let all = shares[0].try_charge(rest);
        prop_assert!(shares[0].try_charge(1).is_none());
        drop((first, all));
    }
}

fn used(permits: &[(Permit, usize)], grants: &[u64]) -> u64 {
    let mut alive: Vec<usize> = permits.iter().map(|(_, grant)| *grant).collect();
    alive.sort_unstable();
    alive.dedup();
    alive.into_iter().map(|grant| grants[grant]).sum()
}

#[test]
fn an_alarm_halves_what_is_granted_and_passes() {
    let budget = Budget::new(LIMIT);
    budget.set_alarm(true);
    let half = budget.try_take(LIMIT / 2).unwrap();
    assert_eq!(budget.try_take(1).unwrap_err(), Exhausted::ForNow);
    assert!(budget.try_take(0).is_ok(), "what takes nothing needs no room");
    drop(half);
    assert!(budget.try_take(1).is_ok(), "it does not refuse for ever");
    budget.set_alarm(false);
    assert!(budget.try_take(LIMIT).is_ok());
    assert_eq!(budget.refused(), 1);
}

#[test]
fn windows_take_a_quarter_at_most() {
    let budget = Budget::new(LIMIT);
    let windows: Vec<_> = std::iter::from_fn(|| budget.try_window(60)).collect();
    assert_eq!(windows.len(), 4);
    assert_eq!(budget.used(), 240);
    assert!(budget.try_take(LIMIT - 240).is_ok());
    drop(windows);
    assert_eq!(budget.used(), 0);
    assert!(budget.try_window(LIMIT / 4).is_some());
}

#[test]
fn what_can_never_be_covered_is_refused_for_ever_however_it_grew() {
    let budget = Budget::new(LIMIT);
    let window = budget.try_window(100).unwrap();
    assert_eq!(budget.most(), LIMIT - 100);
    let permit = budget.try_take(LIMIT / 2).unwrap();
    assert_eq!(permit.try_cover(LIMIT - 99), Err(Exhausted::ForEver));
    let other = budget.try_take(1).unwrap();
    assert_eq!(permit.try_cover(LIMIT - 100), Err(Exhausted::ForNow));
    drop(other);
    assert_eq!(permit.try_cover(LIMIT - 100), Ok(()));
    assert_eq!((permit.bytes(), budget.used(), budget.refused()), (LIMIT - 100, LIMIT, 2));
    drop(window);
    assert_eq!(permit.try_cover(LIMIT), Ok(()));
}
