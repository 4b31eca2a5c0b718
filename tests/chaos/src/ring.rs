//! Who should get what: the two rings of `load_balancing`, written down a second time and by what is published of them.

use clap::ValueEnum;
use serde::Serialize;

/// How a balancer shares keys between gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Ring {
    /// The Go collector's.
    Otelcol,
    /// That of equal parts.
    Even,
}

/// Positions of the Go collector's ring, and points of each backend on it.
const POSITIONS: u32 = 36_000;
const POINTS: u8 = 100;

/// Positions of the even one.
const SLOTS: u64 = 1 << 18;

impl Ring {
    /// As the configuration calls it.
    pub fn name(self) -> &'static str {
        match self {
            Ring::Otelcol => "otelcol",
            Ring::Even => "even",
        }
    }

    /// Whose each position is, by the place of a name in the list.
    pub fn table(self, names: &[String]) -> Table {
        let mut order: Vec<usize> = (0..names.len()).collect();
        order.sort_by_key(|at| &names[*at]);
        let owners = match self {
            Ring::Otelcol => otelcol(names, &order),
            Ring::Even => even(names, &order),
        };
        Table { ring: self, owners }
    }
}

/// A ring of some gateways.
pub struct Table {
    ring: Ring,
    owners: Vec<usize>,
}

impl Table {
    /// Whose a key is.
    pub fn owner(&self, key: &[u8]) -> usize {
        let at = match self.ring {
            Ring::Otelcol => u64::from(crc32(key) % POSITIONS),
            Ring::Even => fnv(key) % SLOTS,
        };
        self.owners[at as usize]
    }

    /// The part of all positions that each of so many owns.
    pub fn shares(&self, count: usize) -> Vec<f64> {
        let mut shares = vec![0.0; count];
        self.owners.iter().for_each(|owner| shares[*owner] += 1.0 / self.owners.len() as f64);
        shares
    }
}

/// A position that is taken stays whose it is; what lies between belongs to the next behind it.
fn otelcol(names: &[String], order: &[usize]) -> Vec<usize> {
    let mut points = vec![None; POSITIONS as usize];
    for owner in order {
        for point in 0..POINTS {
            let at = crc32(&[names[*owner].as_bytes(), &[point]].concat()) % POSITIONS;
            points[at as usize].get_or_insert(*owner);
        }
    }
    let mut next = points.iter().find_map(|owner| *owner).unwrap_or(0);
    for point in points.iter_mut().rev() {
        next = *point.get_or_insert(next);
    }
    points.into_iter().flatten().collect()
}

/// Each position goes to whom it suits best.
fn even(names: &[String], order: &[usize]) -> Vec<usize> {
    let seeds: Vec<u64> = names.iter().map(|name| fnv(name.as_bytes())).collect();
    let best = |slot| order.iter().copied().max_by_key(|owner| mix(seeds[*owner] ^ mix(slot + 1)));
    (0..SLOTS).filter_map(best).collect()
}

/// The CRC-32 of IEEE 802.3, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// FNV-1a with the finish of MurmurHash3.
fn fnv(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
    mix(bytes.iter().fold(0xCBF2_9CE4_8422_2325, step))
}

fn mix(mut hash: u64) -> u64 {
    for factor in [0xFF51_AFD7_ED55_8CCD, 0xC4CE_B9FE_1A85_EC53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_what_is_published() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        let names = ["endpoint-1".to_owned(), "endpoint-2".to_owned()];
        let table = Ring::Otelcol.table(&names);
        let key = |first, second| {
            let mut key = [0; 16];
            (key[0], key[1]) = (first, second);
            table.owner(&key)
        };
        assert_eq!((key(1, 2), key(128, 128)), (0, 1));
    }

    #[test]
    fn everything_has_an_owner_and_the_even_one_is_even() {
        let names: Vec<String> = (0..10).map(|name| format!("10.0.0.{name}:4317")).collect();
        for (ring, apart) in [(Ring::Otelcol, 0.3), (Ring::Even, 0.03)] {
            let shares = ring.table(&names).shares(10);
            assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-6, "{shares:?}");
            assert!(shares.iter().all(|share| (share * 10.0 - 1.0).abs() < apart), "{ring:?}: {shares:?}");
        }
    }
}
