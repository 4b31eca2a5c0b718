//! The post of dead letters that lay only in memory: a thread writes them, since whoever finds that a message is one
//! must not wait for a disk.

use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use tokio::time::Instant;
use watershed_delivery::Rejection;
use watershed_stage::{Counter, DeadLetter, Failure, Letters as Post};

use crate::envelope::{Envelope, record};
use crate::letters::Letters;

/// What may wait to be written, in bytes; beyond it letters are lost, and counted as that.
const WAITING: usize = 16 << 20;

/// Dead letters of one pipeline.
pub(crate) struct PostBox {
    desk: Arc<Desk>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Desk {
    pile: Mutex<Pile>,
    bell: Condvar,
}

#[derive(Default)]
struct Pile {
    letters: Vec<DeadLetter>,
    bytes: usize,
    closing: bool,
}

// === impl PostBox ===

impl PostBox {
    pub(crate) fn open(letters: Letters, lost: Counter) -> Result<Self, Failure> {
        let desk = Arc::<Desk>::default();
        let theirs = desk.clone();
        let thread = std::thread::Builder::new().name("dead letters".to_owned());
        let thread = thread.spawn(move || write(&theirs, letters, &lost));
        let thread = thread.map_err(|error| Failure::new(error.to_string()))?;
        Ok(Self { desk, writer: Mutex::new(Some(thread)) })
    }
}

impl Post for PostBox {
    fn post(&self, letter: DeadLetter) -> bool {
        let bytes = letter.payload.bytes();
        let mut pile = self.desk.pile.lock();
        if pile.closing || (pile.bytes > 0 && pile.bytes + bytes > WAITING) {
            return false;
        }
        pile.bytes += bytes;
        pile.letters.push(letter);
        drop(pile);
        self.desk.bell.notify_one();
        true
    }

    fn close(&self) {
        self.desk.pile.lock().closing = true;
        self.desk.bell.notify_one();
        if let Some(writer) = self.writer.lock().take()
            && writer.join().is_err()
        {
            tracing::error!("the thread of the dead letters panicked");
        }
    }
}

impl Drop for PostBox {
    fn drop(&mut self) {
        self.close();
    }
}

fn write(desk: &Desk, mut letters: Letters, lost: &Counter) {
    loop {
        let mut pile = desk.pile.lock();
        while pile.letters.is_empty() && !pile.closing {
            match letters.rests_at() {
                None => desk.bell.wait(&mut pile),
                Some(at) => {
                    desk.bell.wait_until(&mut pile, at.into_std());
                    letters.rest(Instant::now());
                }
            }
        }
        let (posted, closing) = (std::mem::take(&mut pile.letters), pile.closing);
        drop(pile);
        for DeadLetter { to, payload, context, rejection } in &posted {
            let envelope = Envelope::of(context).to_bytes();
            let record = record(payload, context, &envelope);
            let Rejection { items, reason, .. } = rejection;
            let kept = letters.keep(&record, to, rejection);
            if !matches!(kept, Ok(true)) {
                lost.add(*items);
            }
            if let Err(error) = kept {
                tracing::error!(%to, items, %reason, %error, "a dead letter can not be kept, and is lost");
            }
        }
        let mut pile = desk.pile.lock();
        pile.bytes = pile.letters.iter().map(|letter| letter.payload.bytes()).sum();
        if closing && pile.letters.is_empty() {
            return;
        }
    }
}
