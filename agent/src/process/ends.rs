//! The ends of many processes, waited for by one task. A task for each would take most of a kilobyte, and there are
//! thousands of them that all wait for the same: that a pidfd can be read.
//!
//! ```text
//!   watch ──▶ its pidfd is in the set ──▶ it died: told, once
//!                      │
//!                      └──▶ the watch is dropped: never told
//! ```
//!
//! It ends no process, and knows nothing of what an end means.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::pidfd::Process;

/// How many ends are taken out of the kernel at once.
const AT_ONCE: usize = 64;

/// What is done once a process has died.
type Tell = Box<dyn FnOnce() + Send>;

/// Waits for the ends of processes. Cheap to clone.
#[derive(Clone)]
pub struct Ends(Arc<Inner>);

struct Inner {
    set: AsyncFd<Set>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    watches_made: u64,
    tells: HashMap<u64, Tell>,
}

/// The kernel's set of pidfds: it can be read while one of them can be.
struct Set(Epoll);

impl AsRawFd for Set {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

/// A process whose end is waited for, until this is dropped.
pub struct Watch {
    number: u64,
    process: Process,
    ends: Ends,
}

impl Ends {
    /// Makes an empty set. Nobody is told anything unless [`Self::run`] runs. Must be called within a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let set = Set(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        // SAFETY: the `Epoll` owns one open descriptor for as long as it lives, and the `AsyncFd` owns it.
        let set = unsafe { AsyncFd::register_with_interest(set, Interest::READABLE) }?;
        Ok(Self(Arc::new(Inner { set, waiting: Mutex::default() })))
    }

    /// Tells of every end, as it comes. Never returns while the runtime runs.
    pub async fn run(self) {
        while let Ok(mut ready) = self.0.set.readable().await {
            let mut events = [EpollEvent::empty(); AT_ONCE];
            // It does not wait, so that no signal interrupts it, and the set is no other's to close: it cannot fail.
            let count = self.0.set.get_ref().0.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
            for event in events.iter().take(count) {
                self.tell(event.data());
            }
            if count == 0 {
                // An end that came since the look makes it ready again.
                ready.clear_ready();
            }
        }
    }

    /// Has `tell` called once the process has died: at once where it has already. It must not wait.
    pub fn watch(&self, process: Process, tell: impl FnOnce() + Send + 'static) -> Watch {
        let number = {
            let mut waiting = self.lock();
            waiting.watches_made += 1;
            let number = waiting.watches_made;
            waiting.tells.insert(number, Box::new(tell));
            number
        };
        let told_once = EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT;
        if let Err(errno) = self.0.set.get_ref().0.add(process.pidfd(), EpollEvent::new(told_once, number)) {
            // The kernel has no room for another: this one is waited for apart, as dear as that is.
            tracing::warn!(pid = process.pid(), %errno, "a process's end is waited for in a task of its own");
            let (awaited, ends) = (process.clone(), self.clone());
            tokio::spawn(async move {
                awaited.exited().await;
                ends.tell(number);
            });
        }
        Watch { number, process, ends: self.clone() }
    }

    fn tell(&self, number: u64) {
        // Called without the lock. A watch that was dropped meanwhile is there no more.
        let tell = self.lock().tells.remove(&number);
        if let Some(tell) = tell {
            tell();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Whose end is waited for.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let forgotten = self.ends.lock().tells.remove(&self.number);
        drop(forgotten);
        // Fails where it was waited for apart.
        let _ = self.ends.0.set.get_ref().0.delete(self.process.pidfd());
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    fn cat() -> (Child, Process) {
        let child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = Process::open(i32::try_from(child.id()).unwrap()).unwrap();
        (child, process)
    }

    fn end(child: &mut Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits until nothing is to be looked at any more: whoever looked at the same end for ever would take a whole core.
    async fn rests(ends: &Ends) {
        let ready = async || timeout(Duration::from_millis(1), ends.0.set.readable()).await.is_ok();
        timeout(LONG, async { while ready().await {} }).await.unwrap();
    }

    #[tokio::test]
    async fn each_end_is_told_once_however_many_come_together() {
        let ends = Ends::new().unwrap();
        tokio::spawn(ends.clone().run());
        let (told, mut heard) = mpsc::unbounded_channel();
        let (mut children, watches): (Vec<_>, Vec<_>) = (0..=2 * AT_ONCE)
            .map(|number| {
                let (child, process) = cat();
                let told = told.clone();
                (child, ends.watch(process, move || told.send(number).unwrap()))
            })
            .unzip();
        for child in &mut children {
            child.kill().unwrap();
        }
        let mut numbers = Vec::new();
        while numbers.len() < children.len() {
            numbers.push(timeout(LONG, heard.recv()).await.unwrap().unwrap());
        }
        numbers.sort_unstable();
        assert!(numbers.iter().copied().eq(0..children.len()));
        // Those that died are still watched.
        rests(&ends).await;
        for child in &mut children {
            child.wait().unwrap();
        }
        drop(watches);
        assert!(heard.try_recv().is_err());
        assert!(ends.lock().tells.is_empty());
    }

    #[tokio::test]
    async fn an_end_before_the_watch_is_told_and_one_after_it_is_not() {
        let ends = Ends::new().unwrap();
        tokio::spawn(ends.clone().run());
        let (told, mut heard) = mpsc::unbounded_channel();
        let tell = |word: &'static str| {
            let told = told.clone();
            move || told.send(word).unwrap()
        };
        let (mut dropped, process) = cat();
        drop(ends.watch(process.clone(), tell("dropped")));
        end(&mut dropped);
        // One that is let go of may be taken hold of again.
        let _again = ends.watch(process, tell("dead before"));
        assert_eq!(timeout(LONG, heard.recv()).await.unwrap(), Some("dead before"));
        let (mut alive, process) = cat();
        let _watch = ends.watch(process, tell("later"));
        end(&mut alive);
        assert_eq!(timeout(LONG, heard.recv()).await.unwrap(), Some("later"));
    }

    #[tokio::test]
    async fn one_task_waits_for_all_and_for_those_that_were_let_go_of_and_are_taken_hold_of_again() {
        let ends = Ends::new().unwrap();
        tokio::spawn(ends.clone().run());
        let (mut children, processes): (Vec<_>, Vec<_>) = (0..3).map(|_| cat()).unzip();
        for _ in 0..2 {
            let watches: Vec<_> =
                processes.iter().map(|process| ends.watch(process.clone(), || panic!("it lives"))).collect();
            assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 1);
            drop(watches);
            assert!(ends.lock().tells.is_empty());
        }
        children.iter_mut().for_each(end);
        rests(&ends).await;
    }

    #[tokio::test]
    async fn whoever_is_told_may_watch_another_and_let_one_go() {
        let ends = Ends::new().unwrap();
        tokio::spawn(ends.clone().run());
        let (told, mut heard) = mpsc::unbounded_channel();
        let [(mut first, first_process), (mut second, second_process)] = [cat(), cat()];
        let let_go = ends.watch(second_process.clone(), || panic!("it was let go of"));
        let by_whom = ends.clone();
        let _watch = ends.watch(first_process, move || {
            drop(let_go);
            let also_told = told.clone();
            told.send(by_whom.watch(second_process, move || drop(also_told))).unwrap();
        });
        end(&mut first);
        let _watch = timeout(LONG, heard.recv()).await.unwrap().unwrap();
        end(&mut second);
        // Both have told by then.
        assert!(timeout(LONG, heard.recv()).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn an_end_that_the_set_has_no_room_for_is_told_all_the_same() {
        let ends = Ends::new().unwrap();
        tokio::spawn(ends.clone().run());
        let (told, mut heard) = mpsc::unbounded_channel();
        let (mut child, process) = cat();
        let also_told = told.clone();
        let _watch = ends.watch(process.clone(), move || told.send(1).unwrap());
        // The kernel takes no descriptor twice.
        let _refused = ends.watch(process, move || also_told.send(2).unwrap());
        end(&mut child);
        let mut numbers =
            [timeout(LONG, heard.recv()).await.unwrap(), timeout(LONG, heard.recv()).await.unwrap()];
        numbers.sort_unstable();
        assert_eq!(numbers, [Some(1), Some(2)]);
    }
}
