//! The sleep protocol of the pool under loom: every interleaving (up to a bound on preemptions) of
//! slots that fall asleep with others that post work. The file under test is the very one that the
//! pool is built from, with loom's primitives in place of the standard ones. A lost wake-up shows
//! as a deadlock.

#[allow(dead_code)]
#[path = "../../src/pool/sleep.rs"]
mod sleep;

mod sync {
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
    use loom::sync::{Arc, Condvar};
    pub(super) use loom::sync::{Mutex, MutexGuard};

    // Loom's own `park` forgets an `unpark` that came while the thread waited for a lock, which the
    // standard one does not. So threads are parked here by what the standard library promises: a
    // token that stays until it is taken.
    loom::thread_local! {
        static THIS: Thread = Thread(Arc::new((Mutex::new(false), Condvar::new())));
    }

    #[derive(Clone)]
    pub(super) struct Thread(Arc<(Mutex<bool>, Condvar)>);

    impl Thread {
        pub(super) fn unpark(&self) {
            *self.0.0.lock().unwrap() = true;
            self.0.1.notify_one();
        }
    }

    pub(super) fn current() -> Thread {
        THIS.with(Thread::clone)
    }

    pub(super) fn park() {
        let Thread(this) = current();
        let mut token = this.0.lock().unwrap();
        while !*token {
            token = this.1.wait(token).unwrap();
        }
        *token = false;
    }
}

use loom::sync::Arc;
use loom::thread;

use sleep::Sleep;
use sync::{AtomicU32, Ordering};

/// A pool whose queue is a number: `ready` items wait, `left` are still to be run.
struct Model {
    sleep: Sleep,
    ready: AtomicU32,
    left: AtomicU32,
}

impl Model {
    fn new(slots: usize, items: u32) -> Arc<Model> {
        Arc::new(Model { sleep: Sleep::new(slots), ready: AtomicU32::new(0), left: AtomicU32::new(items) })
    }

    /// As the pool's pushes, this does no more for visibility than a queue does.
    fn post(&self, near: usize, count: u32) {
        self.ready.fetch_add(count, Ordering::Release);
        self.sleep.announce(near, count);
    }

    fn take(&self) -> bool {
        let mut ready = self.ready.load(Ordering::Relaxed);
        while ready > 0 {
            match self.ready.compare_exchange(ready, ready - 1, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => ready = now,
            }
        }
        false
    }

    fn done(&self) -> bool {
        self.left.load(Ordering::Acquire) == 0
    }

    fn visible(&self) -> bool {
        self.ready.load(Ordering::Relaxed) > 0 || self.done()
    }

    /// A slot's life, cut down to the protocol. `then` runs with each item taken.
    fn serve(&self, slot: usize, then: impl Fn()) {
        loop {
            self.sleep.begin_search();
            let took = loop {
                if self.take() {
                    break true;
                }
                if self.done() {
                    break false;
                }
                self.sleep.sleep(slot, || self.visible());
            };
            self.sleep.end_search(slot, || self.visible());
            if !took {
                return;
            }
            then();
            if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.sleep.wake_all();
            }
        }
    }
}

fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

#[test]
fn one_slot_and_one_poster() {
    check(4, || {
        let model = Model::new(1, 2);
        let slot = {
            let model = Arc::clone(&model);
            thread::spawn(move || model.serve(0, || {}))
        };
        model.post(0, 1);
        model.post(0, 1);
        slot.join().unwrap();
        assert_eq!(model.sleep.idle(), 0);
    });
}

#[test]
fn two_slots_and_one_poster() {
    check(2, || {
        let model = Model::new(2, 2);
        let slots: Vec<_> = (0..2)
            .map(|slot| {
                let model = Arc::clone(&model);
                thread::spawn(move || model.serve(slot, || {}))
            })
            .collect();
        model.post(0, 2);
        slots.into_iter().for_each(|slot| slot.join().unwrap());
        assert_eq!(model.sleep.idle(), 0);
    });
}

/// Two items that wait for each other can only end if the announcement of both wakes both slots, or
/// the first wakes the second.
#[test]
fn two_items_that_need_each_other_get_a_slot_each() {
    check(2, || {
        let model = Model::new(2, 2);
        let met = Arc::new(AtomicU32::new(0));
        let slots: Vec<_> = (0..2)
            .map(|slot| {
                let (model, met) = (Arc::clone(&model), Arc::clone(&met));
                thread::spawn(move || {
                    model.serve(slot, || {
                        met.fetch_add(1, Ordering::AcqRel);
                        while met.load(Ordering::Acquire) < 2 {
                            thread::yield_now();
                        }
                    })
                })
            })
            .collect();
        model.post(0, 1);
        model.post(0, 1);
        slots.into_iter().for_each(|slot| slot.join().unwrap());
    });
}

/// A slot that waits for another reason (it was given up to a wide item) is released exactly once,
/// even before it waits.
#[test]
fn a_release_before_the_wait_is_not_lost() {
    check(4, || {
        let sleep = Arc::new(Sleep::new(1));
        let handed = Arc::new(loom::sync::Mutex::new(None));
        let waiter = {
            let (sleep, handed) = (Arc::clone(&sleep), Arc::clone(&handed));
            thread::spawn(move || {
                *handed.lock().unwrap() = Some(sleep::Sleeper::this(0));
                sleep.wait(0);
            })
        };
        let sleeper = loop {
            if let Some(sleeper) = handed.lock().unwrap().take() {
                break sleeper;
            }
            thread::yield_now();
        };
        sleep.release(&sleeper);
        waiter.join().unwrap();
    });
}
