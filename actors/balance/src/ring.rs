//! Which backend a key belongs to: the ring of the Go collector, bit for bit, and one that is more even.
//!
//! Both are tables from a position to a backend, so that a lookup is one load.
//!
//! The Go collector's ring (contrib, `exporter/loadbalancingexporter`, `consistent_hashing.go`) has 36 000 positions. A
//! backend takes 100 of them: the CRC-32 (IEEE) of its name and one more byte, which counts from 0, modulo 36 000; one
//! that is taken already stays whose it is, so the order of the backends matters, and resolvers sort them. A key belongs to
//! the first backend at or behind its own position, which is the same checksum of the key; behind the last one comes the
//! first. With so few points the shares are uneven: of 3 backends the largest has 36 % in place of 33 % as a rule, of 10
//! 11.5 %, and one set of names in twenty has more than 39 and 12.6 %.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How keys are shared between backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// As the Go collector does it, so that collectors of both sorts agree on where a key belongs.
    #[default]
    Otelcol,
    /// In equal parts, to within three percent of each. All collectors of a tier have to use it.
    Even,
}

/// A table of keys.
#[derive(Debug)]
pub(crate) struct Ring {
    kind: Kind,
    /// The backend at each position, by number.
    table: Box<[u16]>,
}

/// Positions of the Go collector's ring: 360 degrees with two decimal places.
const POSITIONS: u32 = 36_000;

/// Points of a backend on the Go collector's ring.
const POINTS: u8 = 100;

/// Positions of the even one.
const SLOTS: u64 = 1 << 18;

/// Nobody's position, while a table is made.
const NOBODY: u16 = u16::MAX;

/// The most backends that a table can tell apart.
pub(crate) const MOST: usize = NOBODY as usize;

// === impl Ring ===

impl Ring {
    /// A ring of these backends, by name: the first [`MOST`] of them.
    pub(crate) fn new<N: AsRef<str>>(kind: Kind, names: &[N]) -> Self {
        let names = names.get(..MOST).unwrap_or(names);
        let table = match kind {
            Kind::Otelcol => otelcol(names, POINTS),
            Kind::Even => even(names),
        };
        Self { kind, table }
    }

    /// The ring of these backends, made of the one of those `before`: it is the same as a new one, and costs what changes.
    pub(crate) fn after<N: AsRef<str>>(&self, before: &[N], names: &[N]) -> Self {
        let (kind, all) = (self.kind, names.get(..MOST).unwrap_or(names));
        match kind {
            Kind::Otelcol => Self::new(kind, names),
            Kind::Even => Self { kind, table: even_after(&self.table, before, all) },
        }
    }

    /// The number of the backend that a key belongs to; `None` where there is none.
    pub(crate) fn at(&self, key: &[u8]) -> Option<usize> {
        let position = match self.kind {
            Kind::Otelcol => (crc32(0, key) % POSITIONS) as usize,
            Kind::Even => (hash(0, key) % SLOTS) as usize,
        };
        self.table.get(position).filter(|backend| **backend != NOBODY).map(|backend| usize::from(*backend))
    }
}

/// The part of all positions that each of these backends has on a ring, in their order. A position is as likely as another
/// for keys that are random, as trace ids are.
pub fn shares<N: AsRef<str>>(kind: Kind, names: &[N]) -> Vec<f64> {
    let table = Ring::new(kind, names).table;
    let mut shares = vec![0.0; names.len()];
    for owner in &table {
        if let Some(share) = shares.get_mut(usize::from(*owner)) {
            *share += 1.0 / table.len() as f64;
        }
    }
    shares
}

fn otelcol<N: AsRef<str>>(names: &[N], points: u8) -> Box<[u16]> {
    let mut table = vec![NOBODY; POSITIONS as usize];
    for (number, name) in names.iter().enumerate() {
        let name = crc32(0, name.as_ref().as_bytes());
        for point in 0..points {
            if let Some(position @ &mut NOBODY) = table.get_mut((crc32(name, &[point]) % POSITIONS) as usize)
            {
                *position = number as u16;
            }
        }
    }
    // From the last to the first, twice round for those behind the last.
    let mut next = NOBODY;
    for _ in 0..2 {
        for position in table.iter_mut().rev() {
            if *position == NOBODY {
                *position = next;
            } else {
                next = *position;
            }
        }
    }
    table.into()
}

/// Each position goes to whom it suits best (rendezvous hashing), so a backend that comes takes its part from all others
/// alike, and one that goes leaves its part to all of them.
fn even<N: AsRef<str>>(names: &[N]) -> Box<[u16]> {
    let seeds = seeds(names);
    (0..SLOTS).map(|slot| best(slot, seeds.iter().copied())).collect()
}

/// The same, where the table of those `before` is known: who has a position loses it only to those who are new.
fn even_after<N: AsRef<str>>(table: &[u16], before: &[N], names: &[N]) -> Box<[u16]> {
    let seeds = seeds(names);
    let number = |name: &N| names.iter().position(|other| other.as_ref() == name.as_ref());
    let stays: Vec<Option<Seed>> = before.iter().map(|name| seeds.get(number(name)?).copied()).collect();
    let is_new = |name: &N| before.iter().all(|other| other.as_ref() != name.as_ref());
    let new: Vec<Seed> =
        seeds.iter().zip(names).filter(|(_, name)| is_new(name)).map(|(seed, _)| *seed).collect();
    let at = |(slot, owner): (u64, &u16)| match stays.get(usize::from(*owner)).copied().flatten() {
        Some(owner) => best(slot, new.iter().copied().chain([owner])),
        None => best(slot, seeds.iter().copied()),
    };
    (0..SLOTS).zip(table).map(at).collect()
}

/// What a backend is hashed from, and its number.
type Seed = (u64, u16);

fn seeds<N: AsRef<str>>(names: &[N]) -> Vec<Seed> {
    (0..).zip(names).map(|(number, name)| (hash(0, name.as_ref().as_bytes()), number)).collect()
}

/// Whom a position suits best; of equals, the last.
fn best(slot: u64, seeds: impl Iterator<Item = Seed>) -> u16 {
    let slot = mix(slot + 1);
    seeds.map(|(seed, number)| (mix(seed ^ slot), number)).max().map_or(NOBODY, |(_, number)| number)
}

/// FNV-1a, and a finish that spreads it over all bits.
pub(crate) fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325 ^ seed;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
    }
    mix(hash)
}

/// The finish of MurmurHash3.
pub(crate) fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    hash ^ (hash >> 33)
}

/// Uniform in 0..1, of a number whose bits are.
pub(crate) fn fraction(random: u64) -> f64 {
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

/// The CRC-32 (IEEE 802.3, reflected) of what `before` is the checksum of, and these bytes behind it.
fn crc32(before: u32, bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| (crc >> 8) ^ CRC[((crc ^ u32::from(*byte)) & 0xFF) as usize];
    !bytes.iter().fold(!before, step)
}

static CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    /// The points of a ring: where it changes hands.
    fn points(names: &[&str], points: u8) -> Vec<(u32, u16)> {
        let table = otelcol(names, points);
        let last = |position: &usize| table[*position] != table[(position + 1) % table.len()];
        (0..table.len()).filter(last).map(|position| (position as u32, table[position])).collect()
    }

    #[test]
    fn checksums_are_those_of_ieee() {
        assert_eq!(crc32(0, b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(crc32(0, b"12345"), b"6789"), 0xCBF4_3926);
    }

    /// The vectors of contrib's own tests: five points of each of two endpoints. Neighbours of one owner are one here.
    #[test]
    fn points_lie_where_the_go_collector_has_them() {
        const FIRST: [u32; 5] = [1401, 4175, 14133, 17836, 21667];
        const SECOND: [u32; 5] = [10240, 15002, 21263, 26806, 27020];
        let mut all: Vec<(u32, u16)> =
            FIRST.iter().map(|at| (*at, 0)).chain(SECOND.iter().map(|at| (*at, 1))).collect();
        all.sort_unstable();
        let changes = |pair: &[(u32, u16)]| (pair[0].1 != pair[1].1).then_some(pair[0]);
        let mut around = all.clone();
        around.push(all[0]);
        let expected: Vec<(u32, u16)> = around.windows(2).filter_map(changes).collect();
        assert_eq!(points(&["endpoint-1", "endpoint-2"], 5), expected);
    }

    #[test]
    fn traces_belong_to_whom_the_go_collector_gives_them() {
        let ring = Ring::new(Kind::Otelcol, &["endpoint-1", "endpoint-2"]);
        let trace = |first: u8, second: u8| {
            let mut id = [0; 16];
            (id[0], id[1]) = (first, second);
            ring.at(&id)
        };
        assert_eq!((trace(1, 2), trace(128, 128)), (Some(0), Some(1)));
    }

    /// Contrib's vectors for the lookup: the first point at or behind, and the first of all behind the last.
    #[test]
    fn a_key_belongs_to_the_next_point() {
        let names: Vec<String> = (0..7).map(|name| format!("gateway-{name}:4317")).collect();
        let ring = Ring::new(Kind::Otelcol, &names);
        let mut taken: Vec<(u32, usize)> = Vec::new();
        for (number, name) in names.iter().enumerate() {
            for point in 0..POINTS {
                let at = crc32(crc32(0, name.as_bytes()), &[point]) % POSITIONS;
                if taken.iter().all(|(other, _)| *other != at) {
                    taken.push((at, number));
                }
            }
        }
        taken.sort_unstable();
        for key in 0..10_000_u32 {
            let at = crc32(0, &key.to_be_bytes()) % POSITIONS;
            let next = taken.iter().find(|(point, _)| *point >= at).unwrap_or(&taken[0]);
            assert_eq!(ring.at(&key.to_be_bytes()), Some(next.1));
        }
    }

    #[test]
    fn a_point_that_is_taken_stays_whose_it_is() {
        // The same name twice: the second finds all of its points taken.
        let twice = Ring::new(Kind::Otelcol, &["a:1", "a:1"]);
        assert!((0..1000_u32).all(|key| twice.at(&key.to_le_bytes()) == Some(0)));
    }

    #[test]
    fn nobody_has_nothing() {
        for kind in [Kind::Otelcol, Kind::Even] {
            assert_eq!(Ring::new::<&str>(kind, &[]).at(b"key"), None);
            assert_eq!(Ring::new(kind, &["only:4317"]).at(b"key"), Some(0));
        }
    }

    #[test]
    fn what_is_made_of_another_ring_is_as_if_it_were_new() {
        let names: Vec<String> = (0..9).map(|name| format!("10.0.0.{name}:4317")).collect();
        for kind in [Kind::Otelcol, Kind::Even] {
            for (before, after) in
                [(0..3, 0..9), (0..9, 2..5), (0..4, 3..8), (0..2, 4..6), (0..0, 0..2), (0..2, 0..0)]
            {
                let (before, after) = (&names[before], &names[after]);
                let made = Ring::new(kind, before).after(before, after);
                assert!(made.table == Ring::new(kind, after).table, "{before:?} {after:?}");
            }
        }
    }

    /// What the documentation says of both: the largest share of so many gateways as their names have it.
    #[test]
    fn shares_are_as_uneven_as_it_is_said() {
        let largest = |kind, count: usize, set: usize| {
            let names: Vec<String> = (0..count).map(|name| format!("10.{set}.7.{name}:4317")).collect();
            let shares = shares(kind, &names).into_iter().map(|share| share * count as f64);
            (shares.clone().fold(f64::MAX, f64::min), shares.fold(0.0, f64::max))
        };
        for (kind, count) in [(Kind::Otelcol, 3), (Kind::Otelcol, 10), (Kind::Even, 3), (Kind::Even, 10)] {
            let sets = if kind == Kind::Even { 5 } else { 200 };
            let mut all: Vec<(f64, f64)> = (0..sets).map(|set| largest(kind, count, set)).collect();
            let mut column = |of: fn(&(f64, f64)) -> f64| {
                all.sort_by(|one, other| of(one).total_cmp(&of(other)));
                (of(&all[sets / 20]), of(&all[sets / 2]), of(&all[sets - 1 - sets / 20]))
            };
            let (least, most) = (column(|shares| shares.0), column(|shares| shares.1));
            println!("{kind:?} of {count}: least {least:.3?}, most {most:.3?} of an equal part");
            match kind {
                Kind::Even => assert!(least.0 > 0.97 && most.2 < 1.03),
                Kind::Otelcol => assert!(most.1 > 1.03, "as even as the even one?"),
            }
        }
    }

    #[test]
    fn random_keys_are_shared_as_the_ring_says() {
        const KEYS: u64 = 400_000;
        let names: Vec<String> = (0..10).map(|name| format!("10.0.0.{name}:4317")).collect();
        for kind in [Kind::Otelcol, Kind::Even] {
            let (ring, mut taken) = (Ring::new(kind, &names), [0.0; 10]);
            for key in 0..KEYS {
                let id = [mix(2 * key + 1), mix(2 * key + 2)].map(u64::to_le_bytes).concat();
                taken[ring.at(&id).unwrap()] += 1.0 / KEYS as f64;
            }
            for (taken, share) in taken.iter().zip(shares(kind, &names)) {
                assert!((taken / share - 1.0).abs() < 0.03, "{kind:?}: {taken} in place of {share}");
            }
        }
    }

    #[test]
    fn the_even_one_is_even_and_moves_only_what_it_must() {
        for count in [2_usize, 3, 10] {
            let names: Vec<String> = (0..=count).map(|name| format!("10.0.0.{name}:4317")).collect();
            let (before, after) = (Ring::new(Kind::Even, &names[..count]), Ring::new(Kind::Even, &names));
            let mut shares = vec![0_usize; count];
            for (old, new) in before.table.iter().zip(&after.table) {
                shares[usize::from(*old)] += 1;
                assert!(new == old || usize::from(*new) == count, "between two that stay");
            }
            let equal = SLOTS as usize / count;
            assert!(shares.iter().all(|share| share.abs_diff(equal) * 100 < equal * 3), "{shares:?}");
        }
    }
}
