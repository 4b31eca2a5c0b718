//! Answers to `_bulk` from outside: whatever is answered, reading gives verdicts up to where it breaks off, and no more
//! of a beginning than of the whole.

#![no_main]

use libfuzzer_sys::fuzz_target;
use watershed_elasticsearch::answer::{complaint, read};

fuzz_target!(|body: &[u8]| {
    let mut whole = Vec::new();
    let is_whole = read(body, &mut |verdict| whole.push(verdict)).is_ok();
    let mut part = Vec::new();
    let cut = read(&body[..body.len() / 2], &mut |verdict| part.push(verdict)).is_ok();
    assert!(part.len() <= whole.len() && part == whole[..part.len()]);
    assert!(!cut || !is_whole || part == whole || body.len() < 2);
    assert!(complaint(body).len() <= 3 * body.len() + 8);
});
