//! Tells what happens while it happens: one line for each step, and on a terminal a bar under them for the step that is
//! under way.

use std::io::Write;
use std::time::Duration;

use console::{Term, style, truncate_str};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::time::Instant;

const REDRAW: Duration = Duration::from_millis(100);
/// As wide as the longest title of a step.
const TITLE_COLUMNS: usize = 42;
/// Where there is no terminal to fit.
const COLUMNS: usize = 120;

/// One step, for programs.
#[derive(Debug, Serialize)]
pub(crate) struct Step {
    /// When it began, since the demo did.
    at_ms: u128,
    /// How long it took.
    took_ms: u128,
    /// What was done.
    title: String,
    /// What came of it.
    said: String,
}

/// The teller.
pub(crate) struct Story {
    began: Instant,
    /// Whether people read standard output.
    told: bool,
    steps: Vec<Step>,
    current: Option<(String, Instant, ProgressBar)>,
}

impl Story {
    /// A story that begins now. With `json` standard output is left to the document at the end.
    pub(crate) fn new(json: bool) -> Self {
        Self { began: Instant::now(), told: !json, steps: Vec::new(), current: None }
    }

    /// A step begins. Returns its bar, which shows nothing where there is no terminal.
    pub(crate) fn begin(&mut self, title: impl Into<String>) -> ProgressBar {
        let title = title.into();
        let bar = ProgressBar::new(0).with_style(spinner()).with_message(title.clone());
        bar.enable_steady_tick(REDRAW);
        self.current = Some((title, Instant::now(), bar.clone()));
        bar
    }

    /// The step that is under way is done.
    pub(crate) fn done(&mut self, said: impl Into<String>) {
        self.end(&style("✓").green().to_string(), said.into());
    }

    /// The step that is under way has failed, if one is.
    pub(crate) fn failed(&mut self) {
        self.end(&style("✗").red().to_string(), "not done".to_owned());
    }

    /// Writes text for people.
    pub(crate) fn tell(&self, text: impl std::fmt::Display) {
        if self.told {
            // A reader who has seen enough, as `head` has, is no reason to leave a guest behind.
            let _ = writeln!(std::io::stdout(), "{text}");
        }
    }

    /// Writes a heading, for people.
    pub(crate) fn heading(&self, text: &str) {
        self.tell(format_args!("\n{}", style(text).bold()));
    }

    /// Every step so far.
    pub(crate) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// How long the story has lasted.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    fn end(&mut self, mark: &str, said: String) {
        let Some((title, began, bar)) = self.current.take() else { return };
        bar.finish_and_clear();
        let (at, took) = (began - self.began, began.elapsed());
        let (at_s, took_s) = (at.as_secs_f32(), took.as_secs_f32());
        let at_s = style(format!("{at_s:>6.1}s")).dim();
        let line = format!("{at_s}  {mark} {title:<TITLE_COLUMNS$} {took_s:>6.2}s  {said}");
        self.tell(if Term::stdout().is_term() { truncate_str(&line, columns(), "…") } else { line.into() });
        self.steps.push(Step { at_ms: at.as_millis(), took_ms: took.as_millis(), title, said });
    }
}

/// How wide standard output is.
pub(crate) fn columns() -> usize {
    let terminal = Term::stdout();
    if !terminal.is_term() {
        return COLUMNS;
    }
    terminal.size_checked().map_or(COLUMNS, |(_, columns)| usize::from(columns))
}

/// Shows how many of `total` bytes are done.
pub(crate) fn progress(bar: &ProgressBar, done_bytes: u64, total_bytes: u64) {
    if bar.length() == Some(0) && total_bytes > 0 {
        bar.set_style(of_bytes());
    }
    bar.set_length(total_bytes);
    bar.set_position(done_bytes.min(total_bytes));
}

fn spinner() -> ProgressStyle {
    style_of("         {spinner} {msg} {elapsed}")
}

fn of_bytes() -> ProgressStyle {
    style_of("         {spinner} {msg:42} [{bar:24}] {binary_bytes}/{binary_total_bytes}  {elapsed}")
}

fn style_of(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("█▉▊▋▌▍▎▏ ")
}
