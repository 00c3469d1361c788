//! Work done ahead of time, in order: one thread reads, one drives the workers, a bounded queue waits for the consumer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded, select_biased};

use super::loader::LoadError;

/// Items made ahead of their use. Stops when dropped.
#[derive(Debug)]
pub(super) struct Ahead<T> {
    ready: Receiver<Result<T, LoadError>>,
    stop: Stop,
}

/// Stops the work from any thread; who waits for it is freed at once.
#[derive(Debug, Clone)]
pub struct Stop {
    told: Arc<AtomicBool>,
    /// Dropped to wake everyone who waits.
    wake: Arc<Mutex<Option<Sender<()>>>>,
    woken: Receiver<()>,
}

// === impl Stop ===

impl Stop {
    fn new() -> Self {
        let (wake, woken) = bounded(0);
        Self {
            told: Arc::default(),
            wake: Arc::new(Mutex::new(Some(wake))),
            woken,
        }
    }

    /// Stops.
    pub fn stop(&self) {
        self.told.store(true, Ordering::Release);
        self.wake
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    /// Whether it was stopped.
    pub fn is_stopped(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }
}

// === impl Ahead ===

impl<T: Send + 'static> Ahead<T> {
    /// Reads each plan on one thread and works on what was read on another, up to `ahead` items before their use. The
    /// first error ends both.
    pub(super) fn start<P, R>(
        name: &str,
        ahead: usize,
        plans: impl Iterator<Item = P> + Send + 'static,
        mut read: impl FnMut(P) -> Result<R, LoadError> + Send + 'static,
        mut work: impl FnMut(R, &Stop) -> Result<T, LoadError> + Send + 'static,
    ) -> Result<Self, LoadError>
    where
        P: Send + 'static,
        R: Send + 'static,
    {
        let stop = Stop::new();
        let (give_read, take_read) = bounded::<Result<R, LoadError>>(1);
        let (give_ready, ready) = bounded(ahead.max(1));
        let reading = stop.clone();
        spawn(format!("{name}-read"), move || {
            for plan in plans {
                let result = if reading.is_stopped() {
                    return;
                } else {
                    read(plan)
                };
                let failed = result.is_err();
                if !reading.give(&give_read, result) || failed {
                    return;
                }
            }
        })?;
        let working = stop.clone();
        spawn(format!("{name}-work"), move || {
            while let Ok(result) = take_read.recv() {
                let result = result.and_then(|read| work(read, &working));
                let failed = result.is_err();
                if !working.give(&give_ready, result) || failed {
                    return;
                }
            }
        })?;
        Ok(Self { ready, stop })
    }

    /// The next item; `None` after the last.
    ///
    /// # Errors
    /// What went wrong with it, or [`LoadError::Aborted`].
    pub(super) fn next(&self) -> Result<Option<T>, LoadError> {
        select_biased! {
            recv(self.stop.woken) -> _ => Err(LoadError::Aborted),
            recv(self.ready) -> item => item.ok().transpose(),
        }
    }

    /// A handle that stops it.
    pub(super) fn stop(&self) -> Stop {
        self.stop.clone()
    }
}

impl<T> Drop for Ahead<T> {
    fn drop(&mut self) {
        self.stop.stop();
    }
}

impl Stop {
    /// Whether an item was taken before the stop.
    fn give<T>(&self, to: &Sender<T>, item: T) -> bool {
        select_biased! {
            recv(self.woken) -> _ => false,
            send(to, item) -> sent => sent.is_ok(),
        }
    }
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> Result<(), LoadError> {
    thread::Builder::new()
        .name(name)
        .spawn(work)
        .map(drop)
        .map_err(|error| LoadError::Threads {
            reason: error.to_string(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: u64) -> Ahead<u64> {
        Ahead::start("test", 2, 0..count, Ok, |n, _| Ok(n * n)).expect("threads start")
    }

    #[test]
    fn items_come_in_order_and_end() {
        let ahead = numbers(20);
        for n in 0..20 {
            assert_eq!(ahead.next(), Ok(Some(n * n)));
        }
        assert_eq!(ahead.next(), Ok(None));
    }

    #[test]
    fn an_error_comes_in_its_place() {
        let fail = |n| {
            if n == 2 {
                Err(LoadError::Threads {
                    reason: "no".to_owned(),
                })
            } else {
                Ok(n)
            }
        };
        let ahead = Ahead::start("test", 2, 0..9u64, fail, |n, _| Ok(n)).expect("threads start");
        assert_eq!((ahead.next(), ahead.next()), (Ok(Some(0)), Ok(Some(1))));
        assert_eq!(
            ahead.next(),
            Err(LoadError::Threads {
                reason: "no".to_owned()
            })
        );
        assert_eq!(ahead.next(), Ok(None));
    }

    #[test]
    fn a_stop_frees_who_waits() {
        let (_held, block) = bounded::<()>(0);
        let work = move |n: u64, _: &Stop| {
            let _ = block.recv();
            Ok(n)
        };
        let ahead = Ahead::start("test", 1, 0.., Ok, work).expect("threads start");
        let stop = ahead.stop();
        let waiter = thread::spawn(move || ahead.next());
        stop.stop();
        assert_eq!(
            waiter.join().expect("the waiter ends"),
            Err(LoadError::Aborted)
        );
    }
}
