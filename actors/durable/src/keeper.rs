//! The stage that keeps: it has every message written before it says "ok", and hands on what it is given by its store.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, OptionFuture};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use watershed_delivery::{Fault, Outcome};
use watershed_stage::{
    Counter, Env, Extension, Failure, Letters as Post, Message, Notes, Placement, Provided, Role, Signal,
    StageSpec, Storage, Switch, Unfinished, Way,
};
use watershed_supervise::{Control, Launch, Lease, Next, Ticket};

use crate::envelope;
use crate::letters::{self, Letters};
use crate::notes::NoteBooks;
use crate::post::PostBox;
use crate::settings::{OnShutdown, StoreSettings};
use crate::store::{Kept, Plan, Replay, Store, directory};

/// How long a message waits that could not be written.
const AGAIN: Duration = Duration::from_millis(200);

/// How often it is looked whether a store is empty that is to be. What ends is noted within less.
const LOOK: Duration = Duration::from_millis(100);

/// The extension `file_storage`.
pub(crate) struct FileStorage(Arc<StoreSettings>);

/// A stage that keeps: `journal` in a pipeline, or a queue before an exporter.
struct KeeperSpec {
    settings: StoreSettings,
    stores: Arc<Stores>,
    /// Held by the one that opens a store; the others wait, and find it.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// By the directory of the store beside which they lie.
    notes: Mutex<HashMap<PathBuf, Arc<NoteBooks>>>,
}

/// By directory; one for all lanes of a stage.
type Stores = Mutex<HashMap<PathBuf, Arc<Store>>>;

/// One copy of the stage.
struct Keeper {
    store: Arc<Store>,
    onward: Switch<Way>,
    lease: Lease<Message>,
    replays: mpsc::Receiver<Replay>,
    drains: bool,
    on_shutdown: OnShutdown,
    /// In a drain, until when what is on disk is still handed on.
    empties: Option<Instant>,
    writing: FuturesUnordered<LocalBoxFuture<'static, (Ticket, Written)>>,
}

/// What became of a message that was to be written; an error where the store has ended.
type Written = Result<Result<Kept, Outcome>, oneshot::error::RecvError>;

// === impl FileStorage ===

impl Extension for FileStorage {
    type Settings = StoreSettings;

    fn roles(_settings: &StoreSettings) -> &'static [Role] {
        &[Role::Storage]
    }

    fn build(settings: &Arc<StoreSettings>, _env: &Env) -> Result<Provided, Failure> {
        let storage: Arc<dyn Storage> = Arc::new(Self(settings.clone()));
        Ok(Provided { storage: Some(storage), ..Provided::default() })
    }
}

impl Storage for FileStorage {
    fn queue(&self, _exporter: &Arc<str>) -> Arc<dyn StageSpec> {
        Arc::new(KeeperSpec::new((*self.0).clone()))
    }

    fn letters(&self, pipeline: &Arc<str>, lost: Counter) -> Result<Arc<dyn Post>, Failure> {
        let StoreSettings { directory: base, max_dead_letters, .. } = &*self.0;
        let directory = directory(base, "pipeline_", pipeline).join(letters::DIRECTORY);
        Ok(Arc::new(PostBox::open(Letters::new(directory, max_dead_letters.0), lost)?))
    }
}

// === impl KeeperSpec ===

impl From<StoreSettings> for Arc<dyn StageSpec> {
    fn from(settings: StoreSettings) -> Self {
        Arc::new(KeeperSpec::new(settings))
    }
}

impl KeeperSpec {
    fn new(settings: StoreSettings) -> Self {
        Self { settings, stores: Arc::default(), turn: Arc::default(), notes: Mutex::default() }
    }
}

impl StageSpec for KeeperSpec {
    fn signals(&self) -> &'static [Signal] {
        &Signal::ALL
    }

    fn placement(&self) -> Placement {
        Placement::Lane
    }

    fn holds(&self) -> bool {
        false
    }

    fn keeps(&self) -> bool {
        true
    }

    fn is_full(&self) -> bool {
        self.stores.lock().values().any(|store| store.is_full())
    }

    fn launch(self: Arc<Self>, env: Env, onward: Switch<Way>) -> Launch<Message> {
        let base = &self.settings.directory;
        let plan = Plan {
            settings: self.settings.clone(),
            directory: match &env.pipeline {
                Some(pipeline) => directory(base, "", pipeline),
                None => directory(base, "exporter_", &env.id),
            },
            ends: env.ends.clone(),
        };
        Arc::new(move |lease| {
            let (spec, plan, env, onward) = (self.clone(), plan.clone(), env.clone(), onward.clone());
            async move {
                let store = spec.store(&plan, &env).await?;
                let (replays, writing) = (store.attach(), FuturesUnordered::new());
                let on_shutdown = plan.settings.on_shutdown;
                Keeper { store, onward, lease, replays, drains: false, on_shutdown, empties: None, writing }
                    .run()
                    .await
            }
            .boxed_local()
        })
    }

    fn notes(&self, pipeline: &Arc<str>) -> Option<Arc<dyn Notes>> {
        let place = directory(&self.settings.directory, "", pipeline);
        let new = || {
            let (stores, at) = (self.stores.clone(), place.clone());
            let unfinished =
                move || stores.lock().get(&at).map_or_else(Unfinished::all, |store| store.unfinished());
            Arc::new(NoteBooks::new(place.clone(), &self.settings, Arc::new(unfinished)))
        };
        Some(self.notes.lock().entry(place.clone()).or_insert_with(new).clone())
    }

    fn owes(&self, pipeline: Option<&Arc<str>>) -> Option<u64> {
        let (stores, of) = (self.stores.lock(), self.of(pipeline));
        stores.iter().filter(|(place, _)| of(place)).filter_map(|(_, store)| store.oldest()).min()
    }

    fn close(&self, pipeline: Option<&Arc<str>>) -> u64 {
        let of = self.of(pipeline);
        let notes: Vec<_> = self.notes.lock().extract_if(|place, _| of(place)).collect();
        notes.iter().for_each(|(_, notes)| notes.close());
        // Whoever closes waits for its thread, and nobody else is to wait for that.
        let stores: Vec<_> = self.stores.lock().extract_if(|place, _| of(place)).collect();
        let left = stores.iter().map(|(place, store)| {
            let (directory, records) = (place.display(), store.close());
            match self.settings.on_shutdown {
                _ if records == 0 => 0,
                OnShutdown::Keep => {
                    tracing::info!(%directory, records, "the journal has something left for the next process");
                    0
                }
                OnShutdown::Empty => {
                    tracing::error!(%directory, records,
                        "the journal was to be empty, and is not: `watershed journal drain` sends what it has");
                    records
                }
            }
        });
        left.sum()
    }
}

impl KeeperSpec {
    /// Whether a directory is that of this pipeline; every one is, where none is named.
    fn of(&self, pipeline: Option<&Arc<str>>) -> impl Fn(&PathBuf) -> bool + use<> {
        let of = pipeline.map(|pipeline| directory(&self.settings.directory, "", pipeline));
        move |place| of.as_ref().is_none_or(|of| of == place)
    }

    /// The store of this directory; opened by the first copy that asks. That takes as long as what is in it takes to be
    /// read, and the lane has others to serve.
    async fn store(&self, plan: &Plan, env: &Env) -> Result<Arc<Store>, Failure> {
        let turn = self.turn.clone().lock_owned().await;
        let (stores, plan, env) = (self.stores.clone(), plan.clone(), env.clone());
        let opened = tokio::task::spawn_blocking(move || {
            // It is not broken off where nobody waits for it any more: whoever is next must not find it half open.
            let _turn = turn;
            open(&stores, &plan, &env)
        });
        opened.await.unwrap_or_else(|lost| Err(Failure::from_error(&lost)))
    }
}

/// The store of this directory: the one that there is, or else a new one.
fn open(stores: &Stores, plan: &Plan, env: &Env) -> Result<Arc<Store>, Failure> {
    let standing = {
        let mut stores = stores.lock();
        // The directory is free again once the one that ended is gone.
        stores.retain(|_, store| !store.is_dead());
        stores.get(&plan.directory).cloned()
    };
    if let Some(store) = standing {
        return Ok(store);
    }
    // Without the lock, on which others look whether there is room.
    let store = Store::open(plan, env)?;
    stores.lock().insert(plan.directory.clone(), store.clone());
    Ok(store)
}

// === impl Keeper ===

impl Keeper {
    async fn run(mut self) -> Result<(), Failure> {
        self.lease.started();
        let mut drained = false;
        loop {
            // A queue that is never empty must not keep the lane from its neighbours.
            tokio::task::coop::consume_budget().await;
            if drained && self.writing.is_empty() {
                match self.lease.try_next() {
                    // The queue was empty once, but is still open.
                    Some(ticket) => self.write(ticket),
                    None if self.empties.is_none() => return Ok(()),
                    None => {}
                }
            }
            let emptied = self.emptied().filter(|_| drained && self.writing.is_empty());
            tokio::select! {
                Some((ticket, written)) = self.writing.next(), if !self.writing.is_empty() => {
                    self.written(ticket, written)?;
                }
                replay = self.replays.recv(), if !drained || self.empties.is_some() => match replay {
                    Some(replay) => self.hand_on(replay),
                    None => return Err(Failure::new("its journal can not be read any more")),
                },
                next = self.lease.next(), if !drained => match next {
                    Next::Mail(ticket) => self.write(ticket),
                    Next::Control(Control::Drain { deadline }) => self.drain(deadline),
                    Next::Drained => drained = true,
                },
                Some(is_empty) = OptionFuture::from(emptied) => {
                    self.empties = None;
                    // What is empty to this copy may be given something by another one, which waits for that.
                    if !is_empty {
                        self.store.quiet();
                    }
                }
            }
        }
    }

    fn drain(&mut self, deadline: Instant) {
        self.drains = true;
        match self.on_shutdown {
            OnShutdown::Keep => self.store.quiet(),
            // What follows needs the rest of the time for what it is given last.
            OnShutdown::Empty => {
                let now = Instant::now();
                self.empties = Some(now + deadline.saturating_duration_since(now) * 3 / 4);
            }
        }
    }

    /// Where what is on disk is still handed on: ready when nothing is left of it, which is true, or the time for that is
    /// up.
    fn emptied(&self) -> Option<impl Future<Output = bool> + 'static> {
        let (until, store) = (self.empties?, self.store.clone());
        Some(async move {
            let empty = async {
                // Twice in a row: what was written last is noted a moment later than it is known here.
                let mut looks = 0;
                while looks < 2 {
                    sleep(LOOK).await;
                    looks = if store.is_empty() { looks + 1 } else { 0 };
                }
            };
            tokio::select! {
                () = empty => true,
                () = sleep_until(until) => false,
            }
        })
    }

    fn write(&self, ticket: Ticket) {
        let look = |mail: &Message| (mail.payload.clone(), mail.context.clone());
        let Some((payload, context)) = self.lease.with(&ticket, look) else { return };
        let kept = self.store.write(payload, context);
        self.writing.push(kept.map(|written| (ticket, written)).boxed_local());
    }

    /// Tries again later with what has no sender any more who would: he has had his "ok".
    fn write_again(&self, ticket: Ticket) {
        let look = |mail: &Message| (mail.payload.clone(), mail.context.clone());
        let Some((payload, context)) = self.lease.with(&ticket, look) else { return };
        let store = self.store.clone();
        let again = async move {
            tokio::time::sleep(AGAIN).await;
            store.write(payload, context).await
        };
        self.writing.push(again.map(|written| (ticket, written)).boxed_local());
    }

    fn written(&self, ticket: Ticket, written: Written) -> Result<(), Failure> {
        let written = written.map_err(|_| Failure::new("its journal can not be written any more"))?;
        let Kept { sequence, guard } = match written {
            Ok(kept) => kept,
            Err(outcome) => {
                let awaited = self.lease.with(&ticket, |mail| mail.guard.is_awaited());
                if matches!(outcome, Outcome::Refused(_)) && awaited == Some(false) && !self.drains {
                    self.write_again(ticket);
                } else {
                    self.lease.finish(ticket, outcome);
                }
                return Ok(());
            }
        };
        let Some(taken) = self.lease.take(ticket) else { return Ok(()) };
        let (Message { payload, context, guard: debt, permit, .. }, room) = taken.into_parts();
        drop(room);
        if debt.is_withdrawn() {
            // Its sender was told to send it again, and nobody has it yet.
            if let Some(guard) = guard {
                guard.resolve(Outcome::Dropped { items: payload.items() as u64 });
            }
            self.store.forget(sequence);
            return Ok(());
        }
        debt.resolve(Outcome::Delivered);
        if let Some(guard) = guard {
            self.onward.get().offer(Message { payload, context, guard, permit, charge: None });
        }
        Ok(())
    }

    fn hand_on(&self, replay: Replay) {
        let Replay { stored, guard, permit } = replay;
        let items = u64::from(stored.items);
        match envelope::open(stored) {
            Ok((payload, context)) => {
                self.onward.get().offer(Message { payload, context, guard, permit, charge: None });
            }
            Err(error) => guard.resolve(Outcome::rejected(Fault::Invalid, items, error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, OpenOptions};
    use std::path::Path;
    use std::process::Command;
    use std::sync::mpsc::SyncSender;
    use std::thread::JoinHandle;

    use tokio::time::timeout;
    use watershed_delivery::Budget;
    use watershed_stage::{Extensions, Metrics, Shelf, Tracing};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    /// A directory whose manifest can not be read before it is told, or for as long as a test can wait.
    struct Slow {
        tell: SyncSender<()>,
        /// Whether it was told in time.
        told: JoinHandle<(bool, File)>,
    }

    impl Slow {
        fn new(directory: &Path) -> Self {
            fs::create_dir_all(directory).unwrap();
            let pipe = directory.join("manifest");
            assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
            let (tell, told) = std::sync::mpsc::sync_channel(1);
            // Who opens a pipe to read from it waits for somebody who writes.
            let wait = move || {
                let in_time = told.recv_timeout(PATIENCE).is_ok();
                let end = OpenOptions::new().write(true).open(&pipe).unwrap();
                // Whoever comes next finds no pipe that nobody writes to.
                fs::remove_file(pipe).unwrap();
                (in_time, end)
            };
            Self { tell, told: std::thread::Builder::new().spawn(wait).unwrap() }
        }
    }

    fn place(base: &Path) -> (Arc<KeeperSpec>, Plan, Env) {
        let settings = StoreSettings { directory: base.to_owned(), ..StoreSettings::default() };
        let directory = directory(base, "", "traces");
        let plan = Plan { settings: settings.clone(), directory, ends: ["sink".into()].into() };
        let env = Env {
            id: "journal".into(),
            pipeline: Some("traces".into()),
            lane: 0,
            copies: 1,
            budget: Budget::new(1 << 30),
            metrics: Metrics::default(),
            tracing: Tracing::default(),
            extensions: Extensions::default(),
            shelf: Shelf::default(),
            notes: None,
            ends: Arc::default(),
        };
        (Arc::new(KeeperSpec::new(settings)), plan, env)
    }

    #[tokio::test]
    async fn a_lane_goes_on_while_a_store_is_opened() {
        let base = tempfile::tempdir().unwrap();
        let (spec, plan, env) = place(base.path());
        let Slow { tell, told } = Slow::new(&plan.directory);
        let lane = async {
            sleep(Duration::from_millis(20)).await;
            assert!(!spec.is_full() && spec.owes(None).is_none(), "nothing is known of it yet");
            // It may be late.
            let _ = tell.send(());
        };
        let (one, other, ()) = tokio::join!(spec.store(&plan, &env), spec.store(&plan, &env), lane);
        let (one, other) = (one.unwrap(), other.unwrap_or_else(|error| panic!("opened twice: {error}")));
        assert!(Arc::ptr_eq(&one, &other));
        assert!(told.join().unwrap().0, "the lane stood still");
    }

    #[tokio::test]
    async fn a_store_that_nobody_waits_for_any_more_gives_its_directory_up() {
        let base = tempfile::tempdir().unwrap();
        let (spec, plan, env) = place(base.path());
        let Slow { tell, told } = Slow::new(&plan.directory);
        assert!(timeout(Duration::from_millis(20), spec.store(&plan, &env)).await.is_err());
        drop(spec);
        tell.send(()).unwrap();
        told.join().unwrap();
        let (next, plan, env) = place(base.path());
        let again = async {
            while next.store(&plan, &env).await.is_err() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, again).await.expect("its directory is still taken");
    }

    #[tokio::test]
    async fn a_store_that_nobody_waits_for_for_a_while_is_there_for_who_comes_next() {
        let base = tempfile::tempdir().unwrap();
        let (spec, plan, env) = place(base.path());
        let Slow { tell, told } = Slow::new(&plan.directory);
        assert!(timeout(Duration::from_millis(20), spec.store(&plan, &env)).await.is_err());
        tell.send(()).unwrap();
        let store = spec.store(&plan, &env).await;
        assert!(store.is_ok(), "{:?}", store.err());
        told.join().unwrap();
    }
}
