//! One life of a stage: an actix actor that hosts its future and lets no panic out.
//!
//! actix carries nothing but the order to stop. The future, which owns the stage and the lease, is polled and
//! dropped where panics are caught, so that neither actix nor tokio ever unwinds.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

use actix::prelude::*;
use actix_rt::ArbiterHandle;
use futures_util::FutureExt;
use futures_util::future::{Either, LocalBoxFuture, select};
use tokio::sync::oneshot;

use crate::failure::quietly;
use crate::recovery::Recovery;
use crate::root::{Exited, Root, Started};
use crate::{Cell, ChildId, Exit, Failure, Lease, Mail};

/// Builds a stage and runs its loop with the lease it is given, on the Arbiter of the child. Panics in it, and
/// in the future it returns, end the incarnation and nothing else.
pub type Launch<M> = Arc<dyn Fn(Lease<M>) -> LocalBoxFuture<'static, Result<(), Failure>> + Send + Sync>;

/// The order to drop the future, and as what that counts.
pub(crate) struct Stop(pub(crate) Exit);

impl Message for Stop {
    type Result = ();
}

/// An incarnation as its supervisor knows it.
pub(crate) struct Running {
    pub(crate) generation: u64,
    pub(crate) stop: Recipient<Stop>,
}

struct Incarnation {
    body: Option<LocalBoxFuture<'static, ()>>,
    stop: Option<oneshot::Sender<Exit>>,
}

/// Reports the end of an incarnation, however it came about: the last thing to be dropped with it.
struct Notice<M: Mail> {
    cell: Cell<M>,
    root: Addr<Root>,
    child: ChildId,
    generation: u64,
    failure: Failure,
}

/// A future whose drop may panic.
struct Contained<F>(Option<Pin<Box<F>>>);

/// Starts an incarnation of `cell` on `lane`.
pub(crate) fn start<M: Mail>(
    cell: &Cell<M>,
    launch: &Launch<M>,
    lane: &ArbiterHandle,
    root: Addr<Root>,
    child: ChildId,
) -> Running {
    let lease = cell.lend_to(Some(Box::new({
        let root = root.clone();
        move |generation| root.do_send(Started { child, generation })
    })));
    let generation = lease.generation();
    let failure = Failure { message: "its lane is gone".into(), exit: Exit::Failed };
    let notice = Notice { cell: cell.clone(), root, child, generation, failure };
    let launch = launch.clone();
    let (stop, stopped) = oneshot::channel();
    let address = Incarnation::start_in_arbiter(lane, move |_| Incarnation {
        body: Some(host(launch, lease, stopped, notice).boxed_local()),
        stop: Some(stop),
    });
    Running { generation, stop: address.recipient() }
}

async fn host<M: Mail>(
    launch: Launch<M>,
    lease: Lease<M>,
    stopped: oneshot::Receiver<Exit>,
    mut notice: Notice<M>,
) {
    let mut life =
        Contained(Some(Box::pin(AssertUnwindSafe(async move { launch(lease).await }).catch_unwind())));
    let failure = match select(stopped, &mut life).await {
        Either::Left((exit, _)) => {
            let exit = exit.unwrap_or(Exit::Aborted);
            Failure { message: exit.to_string(), exit }
        }
        Either::Right((Ok(Ok(())), _)) => Failure { message: "ended".into(), exit: Exit::Ended },
        Either::Right((Ok(Err(failure)), _)) => failure,
        Either::Right((Err(payload), _)) => Failure::panicked(payload),
    };
    notice.failure = failure;
    drop(life);
    drop(notice);
}

// === impl Incarnation ===

impl Actor for Incarnation {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(body) = self.body.take() {
            ctx.spawn(body.into_actor(self).map(|(), _, ctx| ctx.stop()));
        }
    }
}

impl Handler<Stop> for Incarnation {
    type Result = ();

    fn handle(&mut self, Stop(exit): Stop, _: &mut Self::Context) {
        if let Some(stop) = self.stop.take() {
            // The future may have ended by itself in the meantime: then there is nothing to stop.
            let _ = stop.send(exit);
        }
    }
}

// === impl Notice ===

impl<M: Mail> Drop for Notice<M> {
    fn drop(&mut self) {
        let Failure { message, exit } = &self.failure;
        let recovery: Recovery =
            quietly(|| self.cell.recover(self.generation, *exit, message)).unwrap_or_default();
        self.root.do_send(Exited {
            child: self.child,
            generation: self.generation,
            failure: self.failure.clone(),
            recovery,
        });
    }
}

// === impl Contained ===

impl<F: Future> Future for Contained<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<F::Output> {
        match &mut self.0 {
            Some(future) => future.as_mut().poll(cx),
            None => std::task::Poll::Pending,
        }
    }
}

impl<F> Drop for Contained<F> {
    fn drop(&mut self) {
        let future = self.0.take();
        quietly(move || drop(future));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_that_panics_is_contained() {
        struct Mine;
        impl Drop for Mine {
            fn drop(&mut self) {
                panic!("in drop");
            }
        }
        let mine = Mine;
        drop(Contained(Some(Box::pin(async move { drop(mine) }))));
    }
}
