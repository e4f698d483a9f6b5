//! A bounded queue between tasks that takes little while it is idle: 32 bytes for its items, where a channel of tokio
//! keeps room for 32 of them and a cache line for each of its ends. There are three of them for each of thousands of
//! connections, of which nearly all are idle.
//!
//! It never waits for room by itself, and never loses or reorders an item.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;
pub use tokio::sync::mpsc::error::TrySendError;

/// What an empty queue keeps room for.
const ROOM_KEPT: usize = 4;

/// Puts items in. Cheap to clone.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

/// Takes them out, in their order.
#[derive(Debug)]
pub struct Receiver<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    inner: Mutex<Inner<T>>,
    /// An item was taken out, or no more are taken in.
    room_came: Notify,
}

#[derive(Debug)]
struct Inner<T> {
    items: VecDeque<T>,
    length_max: usize,
    senders: usize,
    /// No more are taken in.
    closed: bool,
    /// The task that waits for an item.
    receiver: Option<Waker>,
}

/// A queue of at most so many items.
pub fn bounded<T>(length_max: usize) -> (Sender<T>, Receiver<T>) {
    let inner = Inner { items: VecDeque::new(), length_max, senders: 1, closed: false, receiver: None };
    let shared = Arc::new(Shared { inner: Mutex::new(inner), room_came: Notify::new() });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> Shared<T> {
    /// Every change under the lock is complete when it is released, so a panic elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.room_came.notify_waiters();
    }
}

impl<T> Inner<T> {
    fn is_full(&self) -> bool {
        self.items.len() >= self.length_max
    }
}

impl<T> Sender<T> {
    /// Puts an item in, or gives it back: the queue is full, or nobody takes anything out any more.
    pub fn try_send(&self, item: T) -> Result<(), TrySendError<T>> {
        let mut inner = self.0.lock();
        if inner.closed {
            return Err(TrySendError::Closed(item));
        }
        if inner.is_full() {
            return Err(TrySendError::Full(item));
        }
        inner.items.push_back(item);
        let receiver = inner.receiver.take();
        // Who is woken wants the lock at once.
        drop(inner);
        if let Some(receiver) = receiver {
            receiver.wake();
        }
        Ok(())
    }

    /// Waits until there is room, or nobody takes anything out any more. Cancel-safe.
    pub async fn room(&self) {
        self.wait_until(|inner| inner.closed || !inner.is_full()).await;
    }

    /// Waits until nobody takes anything out any more. Cancel-safe.
    pub async fn closed(&self) {
        self.wait_until(|inner| inner.closed).await;
    }

    async fn wait_until(&self, is_so: impl Fn(&Inner<T>) -> bool) {
        loop {
            // Begun before the look: what changes in between is not missed.
            let room_came = self.0.room_came.notified();
            if is_so(&self.0.lock()) {
                return;
            }
            room_came.await;
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.lock().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.senders -= 1;
        let receiver = if inner.senders == 0 { inner.receiver.take() } else { None };
        drop(inner);
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }
}

impl<T> Receiver<T> {
    /// Waits for the next item. `None` once all are taken out and none can come. Cancel-safe.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut inner = self.0.lock();
        if let Some(item) = inner.items.pop_front() {
            if inner.items.is_empty() {
                inner.items.shrink_to(ROOM_KEPT);
            }
            drop(inner);
            self.0.room_came.notify_waiters();
            return Poll::Ready(Some(item));
        }
        if inner.closed || inner.senders == 0 {
            return Poll::Ready(None);
        }
        inner.receiver = Some(context.waker().clone());
        Poll::Pending
    }

    /// Takes nothing more in. What is in it can still be taken out.
    pub fn close(&mut self) {
        self.0.close();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.close();
        // What they own must not wait for the last sender to go; dropped without the lock, for it may send.
        let left = std::mem::take(&mut self.0.lock().items);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn items_come_in_order_and_no_more_wait_than_may() {
        let (sender, mut receiver) = bounded(2);
        assert_eq!((sender.try_send(1), sender.try_send(2)), (Ok(()), Ok(())));
        assert_eq!(sender.try_send(3), Err(TrySendError::Full(3)));
        assert_eq!(receiver.recv().await, Some(1));
        assert_eq!(sender.clone().try_send(3), Ok(()));
        assert_eq!((receiver.recv().await, receiver.recv().await), (Some(2), Some(3)));
    }

    #[tokio::test]
    async fn who_waits_for_an_item_is_woken_by_it_and_by_the_last_sender_that_goes() {
        let (sender, mut receiver) = bounded(1);
        let waits = tokio::spawn(async move { (receiver.recv().await, receiver.recv().await) });
        tokio::task::yield_now().await;
        sender.try_send(1).unwrap();
        let other = sender.clone();
        drop(sender);
        tokio::task::yield_now().await;
        assert!(!waits.is_finished(), "a sender is left");
        drop(other);
        assert_eq!(tokio::time::timeout(SOON, waits).await.unwrap().unwrap(), (Some(1), None));
    }

    #[tokio::test]
    async fn who_waits_for_room_is_woken_by_it_and_by_the_receiver_that_goes() {
        let (sender, mut receiver) = bounded(1);
        sender.try_send(1).unwrap();
        let waiting = sender.clone();
        let room = tokio::spawn(async move { waiting.room().await });
        let waiting = sender.clone();
        let closed = tokio::spawn(async move { waiting.closed().await });
        tokio::task::yield_now().await;
        assert!(!room.is_finished());
        assert_eq!(receiver.recv().await, Some(1));
        tokio::time::timeout(SOON, room).await.unwrap().unwrap();
        assert!(!closed.is_finished());
        drop(receiver);
        tokio::time::timeout(SOON, closed).await.unwrap().unwrap();
        assert_eq!(sender.try_send(2), Err(TrySendError::Closed(2)));
    }

    #[tokio::test]
    async fn a_closed_queue_gives_out_what_is_in_it_and_takes_nothing_more() {
        let (sender, mut receiver) = bounded(2);
        sender.try_send(1).unwrap();
        receiver.close();
        assert_eq!(sender.try_send(2), Err(TrySendError::Closed(2)));
        assert_eq!((receiver.recv().await, receiver.recv().await), (Some(1), None));
    }

    #[tokio::test]
    async fn a_burst_leaves_no_room_behind_that_nobody_needs() {
        let (sender, mut receiver) = bounded(1_000);
        for item in 0..1_000 {
            sender.try_send(item).unwrap();
        }
        for item in 0..1_000 {
            assert_eq!(receiver.recv().await, Some(item));
        }
        assert!(receiver.0.lock().items.capacity() <= 2 * ROOM_KEPT);
    }
}
