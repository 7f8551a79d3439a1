//! Where requests wait that nobody can take now, first come, first served, and not for long.
//!
//! In the proxy and not at the engines: here a request can still go to whoever is free first, and one whose client has
//! hung up costs nothing. How long the queue is bounds the wait and the memory; who finds it full, or waits in vain, is
//! told when to come again, by the rate at which requests end.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until};

use crate::api_error::ApiError;
use crate::config::Limits;

/// Over which the rate is measured.
const RATE_WINDOW: Duration = Duration::from_secs(30);
/// What a client may be told.
const RETRY_AFTER_S: (f64, f64) = (1.0, 60.0);

/// The queue and the places behind it.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: Limits,
    /// Of those that are served or wait: so many bodies are in memory.
    rooms: Arc<Semaphore>,
    /// Of those that are served.
    places: Arc<Semaphore>,
    waiting: AtomicU32,
    /// Whose turn it is when there is an instance again. Fair, unlike waking all.
    turn: tokio::sync::Mutex<()>,
    stopping: watch::Sender<bool>,
    ended: Mutex<Rate>,
}

/// A request that was let in and has no place yet.
#[derive(Debug)]
pub(crate) struct Room(OwnedSemaphorePermit);

/// A place among those that are served.
#[derive(Debug)]
pub(crate) struct Place {
    queue: Arc<Queue>,
    _permits: [OwnedSemaphorePermit; 2],
    /// It waits for an instance no longer than this.
    pub(crate) deadline: Instant,
    answered: bool,
}

struct Waiting<'a>(&'a Queue);

impl Queue {
    pub(crate) fn new(limits: Limits) -> Self {
        let places = limits.concurrent_requests as usize;
        Self {
            limits,
            rooms: Arc::new(Semaphore::new(places + limits.queue as usize)),
            places: Arc::new(Semaphore::new(places)),
            waiting: AtomicU32::new(0),
            turn: tokio::sync::Mutex::new(()),
            stopping: watch::Sender::new(false),
            ended: Mutex::new(Rate::new(Instant::now())),
        }
    }

    /// Lets a request in, to read its body.
    pub(crate) fn enter(&self) -> Result<Room, ApiError> {
        let Ok(permit) = Arc::clone(&self.rooms).try_acquire_owned() else {
            return Err(self.full());
        };
        Ok(Room(permit))
    }

    /// Waits for a place, from now on: how long a client took to send its body is not held against it.
    pub(crate) async fn place(self: &Arc<Self>, room: Room) -> Result<Place, ApiError> {
        let Room(room) = room;
        let deadline = Instant::now() + Duration::from_secs(self.limits.queue_s);
        // Finds no place while others wait for one: those that are given back go to them first.
        let place = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                let place = Arc::clone(&self.places).acquire_owned();
                self.wait(deadline, place).await?.map_err(|_| self.full())?
            }
        };
        Ok(Place { queue: Arc::clone(self), _permits: [room, place], deadline, answered: false })
    }

    /// Waits, in turn, for something that is there for everybody once it is there.
    pub(crate) async fn turn(
        &self,
        deadline: Instant,
        there: impl Future<Output = ()>,
    ) -> Result<(), ApiError> {
        let in_turn = async {
            let _turn = self.turn.lock().await;
            there.await;
        };
        self.wait(deadline, in_turn).await
    }

    /// Nobody waits any longer; who has a place keeps it.
    pub(crate) fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    async fn wait<T>(
        &self,
        deadline: Instant,
        ready: impl Future<Output = T>,
    ) -> Result<T, ApiError> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(self);
        if before >= self.limits.queue {
            return Err(self.full());
        }
        let mut stopping = self.stopping.subscribe();
        tokio::select! {
            ready = ready => Ok(ready),
            _ = stopping.wait_for(|stopping| *stopping) => Err(self.refuse("the router stops")),
            () = sleep_until(deadline) => {
                let seconds = self.limits.queue_s;
                Err(self.refuse(&format!("nobody could take the request for {seconds} s")))
            }
        }
    }

    fn full(&self) -> ApiError {
        let Limits { concurrent_requests, queue, .. } = self.limits;
        self.refuse(&format!(
            "{concurrent_requests} requests may be served and {queue} may wait at a time"
        ))
    }

    /// Says when there will be a place, if the queue moves on as it does.
    pub(crate) fn refuse(&self, complaint: &str) -> ApiError {
        let rate = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = rate.per_second(Instant::now());
        let seconds = retry_after_s(self.waiting(), rate, self.limits.queue_s);
        ApiError::unavailable(format!("{complaint}; try again in {seconds} s"))
            .retry_after_s(seconds)
    }
}

/// How long so many take to get a place at this rate; unless it is known, the longest wait.
fn retry_after_s(waiting: u32, per_second: Option<f64>, queue_s: u64) -> u32 {
    let seconds = per_second.map_or(queue_s as f64, |rate| f64::from(waiting.max(1)) / rate);
    seconds.ceil().clamp(RETRY_AFTER_S.0, RETRY_AFTER_S.1) as u32
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Place {
    /// An instance answers. Only such places say how fast the queue moves on: failures are faster.
    pub(crate) fn answered(mut self) -> Self {
        self.answered = true;
        self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.answered {
            let mut rate = self.queue.ended.lock().unwrap_or_else(PoisonError::into_inner);
            rate.add(Instant::now());
        }
    }
}

/// Events a second, those of the last half minute for the most part: an exponentially weighted count over its expected
/// weight.
#[derive(Debug)]
struct Rate {
    begun: Instant,
    last: Instant,
    weight: f64,
}

impl Rate {
    const fn new(now: Instant) -> Self {
        Self { begun: now, last: now, weight: 0.0 }
    }

    fn add(&mut self, now: Instant) {
        self.weight = self.weight * decay(now - self.last) + 1.0;
        self.last = now;
    }

    /// `None` before the first event.
    fn per_second(&self, now: Instant) -> Option<f64> {
        let seen = (1.0 - decay(now - self.begun)) * RATE_WINDOW.as_secs_f64();
        let rate = self.weight * decay(now - self.last) / seen;
        (self.weight > 0.0 && rate.is_finite()).then_some(rate)
    }
}

fn decay(elapsed: Duration) -> f64 {
    (-elapsed.as_secs_f64() / RATE_WINDOW.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(concurrent_requests: u32, queue: u32, queue_s: u64) -> Arc<Queue> {
        let limits = Limits { concurrent_requests, queue, queue_s, ..Limits::default() };
        Arc::new(Queue::new(limits))
    }

    #[test]
    fn the_rate_is_that_of_the_last_half_minute() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        let after = |tenths: u64| start + Duration::from_millis(tenths * 100);
        assert_eq!(rate.per_second(after(5)), None);
        (1..=100).for_each(|tenths| rate.add(after(tenths)));
        let at_once = rate.per_second(after(100)).unwrap();
        assert!((at_once - 10.0).abs() < 0.5, "right from the start: {at_once}");
        (101..=3000).filter(|tenths| tenths % 5 == 0).for_each(|tenths| rate.add(after(tenths)));
        let later = rate.per_second(after(3000)).unwrap();
        assert!((later - 2.0).abs() < 0.1, "{later}");
        assert!(rate.per_second(after(6000)).unwrap() < 0.01);
    }

    #[test]
    fn who_is_refused_is_told_when_to_come_again() {
        assert_eq!(retry_after_s(20, Some(0.5), 10), 40, "20 before it, each 2 s");
        assert_eq!(retry_after_s(0, Some(0.5), 10), 2);
        assert_eq!(retry_after_s(5, Some(100.0), 10), 1);
        assert_eq!(retry_after_s(1000, Some(0.5), 10), 60);
        assert_eq!(retry_after_s(1000, None, 10), 10);
    }

    #[tokio::test]
    async fn who_waits_too_long_is_refused_and_leaves_the_queue() {
        let queue = queue(1, 1, 0);
        let _place = queue.place(queue.enter().unwrap()).await.unwrap();
        let second = queue.enter().unwrap();
        assert!(queue.enter().is_err(), "one is served and one waits");
        assert!(queue.place(second).await.is_err());
        assert_eq!(queue.waiting(), 0);
        assert!(queue.enter().is_ok());
    }

    #[tokio::test]
    async fn the_wait_begins_when_the_body_is_there() {
        let queue = queue(1, 0, 10);
        let room = queue.enter().unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
        let read = Instant::now();
        let place = queue.place(room).await.unwrap();
        assert!(place.deadline >= read + Duration::from_secs(10));
    }

    #[tokio::test]
    async fn those_who_wait_for_an_instance_go_on_in_the_order_in_which_they_came() {
        let queue = queue(8, 8, 60);
        let (there, _) = watch::channel(false);
        let order = Arc::<Mutex<Vec<u32>>>::default();
        let mut waiters = tokio::task::JoinSet::new();
        for number in 0..5 {
            let (queue, order) = (Arc::clone(&queue), Arc::clone(&order));
            let mut there = there.subscribe();
            let deadline = Instant::now() + Duration::from_secs(60);
            waiters.spawn(async move {
                let there = async move { drop(there.wait_for(|there| *there).await) };
                queue.turn(deadline, there).await.unwrap();
                order.lock().unwrap().push(number);
            });
            tokio::task::yield_now().await;
        }
        there.send_replace(true);
        waiters.join_all().await;
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
    }
}
