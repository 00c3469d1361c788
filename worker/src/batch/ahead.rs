//! Work done ahead of time, in order: one thread reads, one drives the workers, a bounded queue waits for the consumer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded, never, select_biased};

use super::loader::LoadError;

/// Items made ahead of their use. Stops when dropped.
#[derive(Debug)]
pub(super) struct Ahead<T> {
    ready: Receiver<Made<T>>,
    /// The last item, or an error, was taken.
    ended: AtomicBool,
    stop: Stop,
}

/// An item on its way; `Ok(None)` marks the end, so that a thread that died is never taken for it.
type Made<T> = Result<Option<T>, LoadError>;

/// Stops work from any thread; who waits for it is freed at once. Clones stop together; a [`child`](Self::child) can be
/// stopped alone, and stops with its parent.
#[derive(Debug, Clone)]
pub struct Stop {
    own: Arc<Signal>,
    above: Option<Arc<Signal>>,
}

#[derive(Debug)]
struct Signal {
    told: AtomicBool,
    /// Dropped to wake everyone who waits.
    wake: Mutex<Option<Sender<()>>>,
    woken: Receiver<()>,
}

// === impl Signal ===

impl Signal {
    fn new() -> Arc<Self> {
        let (wake, woken) = bounded(0);
        Arc::new(Self {
            told: AtomicBool::new(false),
            wake: Mutex::new(Some(wake)),
            woken,
        })
    }

    fn is_told(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }
}

// === impl Stop ===

impl Stop {
    /// A handle that nothing above stops.
    pub fn new() -> Self {
        Self {
            own: Signal::new(),
            above: None,
        }
    }

    /// A handle for a part of the work. Children have no children: theirs would not hear the first parent.
    pub(super) fn child(&self) -> Self {
        Self {
            own: Signal::new(),
            above: Some(Arc::clone(&self.own)),
        }
    }

    /// Stops.
    pub fn stop(&self) {
        self.own.told.store(true, Ordering::Release);
        let mut wake = self.own.wake.lock().unwrap_or_else(PoisonError::into_inner);
        wake.take();
    }

    /// Whether it was stopped.
    pub fn is_stopped(&self) -> bool {
        self.own.is_told() || self.above.as_ref().is_some_and(|above| above.is_told())
    }

    /// Wakes when the parent stops.
    fn above(&self) -> Receiver<()> {
        let woken = self.above.as_ref().map(|above| above.woken.clone());
        woken.unwrap_or_else(never)
    }

    /// Waits for an answer.
    ///
    /// # Errors
    /// [`LoadError::Aborted`] once stopped; [`LoadError::Panicked`] where whoever was to answer is gone.
    pub(super) fn wait<T>(&self, what: &str, answer: &Receiver<T>) -> Result<T, LoadError> {
        select_biased! {
            recv(self.own.woken) -> _ => Err(LoadError::Aborted),
            recv(self.above()) -> _ => Err(LoadError::Aborted),
            recv(answer) -> item => item.map_err(|_| LoadError::Panicked { what: what.to_owned() }),
        }
    }

    /// Runs `work` on a thread of its own and waits for it. Once stopped nobody waits, and it ends in vain.
    ///
    /// # Errors
    /// As [`Stop::wait`]; [`LoadError::Threads`].
    pub fn run<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LoadError> {
        let (answer, answered) = bounded(1);
        spawn(what.to_owned(), move || drop(answer.send(work())))?;
        self.wait(what, &answered)
    }

    /// Whether an item was taken before the stop.
    fn give<T>(&self, to: &Sender<T>, item: T) -> bool {
        select_biased! {
            recv(self.own.woken) -> _ => false,
            recv(self.above()) -> _ => false,
            send(to, item) -> sent => sent.is_ok(),
        }
    }
}

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Ahead ===

impl<T: Send + 'static> Ahead<T> {
    /// Reads each plan on one thread and works on what was read on another, up to `ahead` items before their use. The
    /// first error, or panic, ends both. A stop of `above` stops it.
    pub(super) fn start<P, R>(
        (name, above): (&str, &Stop),
        ahead: usize,
        plans: impl Iterator<Item = P> + Send + 'static,
        mut read: impl FnMut(P) -> Result<R, LoadError> + Send + 'static,
        mut work: impl FnMut(R, &Stop) -> Result<T, LoadError> + Send + 'static,
    ) -> Result<Self, LoadError>
    where
        P: Send + 'static,
        R: Send + 'static,
    {
        let stop = above.child();
        let (give_read, take_read) = bounded::<Made<R>>(1);
        let (give_ready, ready) = bounded::<Made<T>>(ahead.max(1));
        let reading = stop.clone();
        spawn(format!("{name}-read"), move || {
            for plan in plans {
                if reading.is_stopped() {
                    return;
                }
                let result = guarded("the thread that reads data", || read(plan).map(Some));
                let failed = result.is_err();
                if !reading.give(&give_read, result) || failed {
                    return;
                }
            }
            reading.give(&give_read, Ok(None));
        })?;
        let working = stop.clone();
        spawn(format!("{name}-work"), move || {
            while let Ok(result) = take_read.recv() {
                let made = result.and_then(|read| match read {
                    None => Ok(None),
                    Some(read) => guarded("the thread that decodes images", || {
                        work(read, &working).map(Some)
                    }),
                });
                let last = !matches!(made, Ok(Some(_)));
                if !working.give(&give_ready, made) || last {
                    return;
                }
            }
        })?;
        Ok(Self {
            ready,
            ended: AtomicBool::new(false),
            stop,
        })
    }

    /// The next item; `None` after the last.
    ///
    /// # Errors
    /// What went wrong with it, or [`LoadError::Aborted`].
    pub(super) fn next(&self) -> Result<Option<T>, LoadError> {
        if self.ended.load(Ordering::Relaxed) && !self.stop.is_stopped() {
            return Ok(None);
        }
        self.note(self.stop.wait("a thread of the loader", &self.ready)?)
    }

    /// The next item, if it is there.
    pub(super) fn ready(&self) -> Option<Made<T>> {
        let made = self.ready.try_recv().ok()?;
        Some(self.note(made))
    }

    fn note(&self, made: Made<T>) -> Made<T> {
        if !matches!(made, Ok(Some(_))) {
            self.ended.store(true, Ordering::Relaxed);
        }
        made
    }
}

impl<T> Drop for Ahead<T> {
    fn drop(&mut self) {
        self.stop.stop();
    }
}

/// A panic is an error like others: it must not look like the end of the data.
fn guarded<T>(what: &str, work: impl FnOnce() -> Result<T, LoadError>) -> Result<T, LoadError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(LoadError::Panicked {
            what: what.to_owned(),
        })
    })
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
        Ahead::start(("test", &Stop::new()), 2, 0..count, Ok, |n, _| Ok(n * n))
            .expect("threads start")
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
    fn what_is_ready_is_taken_without_waiting_and_in_order() {
        let (let_go, held) = bounded::<()>(0);
        let work = move |n: u64, _: &Stop| {
            // The second waits for the test to end.
            if n == 1 {
                let _ = held.recv();
            }
            Ok(n)
        };
        let ahead =
            Ahead::start(("test", &Stop::new()), 2, 0..2u64, Ok, work).expect("threads start");
        assert_eq!(ahead.next(), Ok(Some(0)));
        assert_eq!(ahead.ready(), None);
        drop(let_go);
        assert_eq!((ahead.next(), ahead.next()), (Ok(Some(1)), Ok(None)));
        assert_eq!(ahead.ready(), None);
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
        let ahead = Ahead::start(("test", &Stop::new()), 2, 0..9u64, fail, |n, _| Ok(n))
            .expect("threads start");
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
    fn a_panic_is_an_error_and_not_the_end() {
        let read = |n: u64| if n == 1 { panic!("reading") } else { Ok(n) };
        let work = |n: u64, _: &Stop| if n == 1 { panic!("working") } else { Ok(n) };
        let stop = Stop::new();
        for ahead in [
            Ahead::start(("test", &stop), 2, 0..9u64, read, |n, _| Ok(n)),
            Ahead::start(("test", &stop), 2, 0..9u64, Ok, work),
        ] {
            let ahead = ahead.expect("threads start");
            assert_eq!(ahead.next(), Ok(Some(0)));
            assert!(matches!(ahead.next(), Err(LoadError::Panicked { .. })));
        }
        let plans = (0..9u64).inspect(|&n| assert!(n < 1, "planning"));
        let ahead =
            Ahead::start(("test", &stop), 2, plans, Ok, |n, _| Ok(n)).expect("threads start");
        assert_eq!(ahead.next(), Ok(Some(0)));
        assert!(matches!(ahead.next(), Err(LoadError::Panicked { .. })));
    }

    #[test]
    fn a_stop_frees_who_waits() {
        let (_held, block) = bounded::<()>(0);
        let work = move |n: u64, _: &Stop| {
            let _ = block.recv();
            Ok(n)
        };
        let stop = Stop::new();
        let ahead = Ahead::start(("test", &stop), 1, 0.., Ok, work).expect("threads start");
        let waiter = thread::spawn(move || ahead.next());
        stop.stop();
        assert_eq!(
            waiter.join().expect("the waiter ends"),
            Err(LoadError::Aborted)
        );
    }
}
