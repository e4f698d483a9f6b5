//! The timeline: slices as people see them, one line each, with a bar that shows where in the sandbox's life each
//! lies.

use std::fmt::Write;

use dormouse_ledger::SliceRow;

use super::table::printable;
use super::when::rfc3339;
use crate::calendar::{duration, uncertain};
use crate::size::Size;

/// A bar narrower than this shows nothing.
const BAR_MIN: usize = 12;
const BAR_MAX: usize = 60;

/// How long a date is in RFC 3339.
const DAY_LEN: usize = "2026-03-01".len();

/// Writes slices as a timeline that is at most `width` columns wide, as far as the words allow: for each generation
/// of a sandbox a heading, and a line for each slice with its number, time of beginning, duration, state, memory,
/// bar and causes. The slices of a sandbox must follow each other, as the ledger gives them.
pub fn render(slices: &[SliceRow], width: usize) -> String {
    let same_life =
        |a: &SliceRow, b: &SliceRow| (&a.org, &a.sandbox, a.generation) == (&b.org, &b.sandbox, b.generation);
    let lives: Vec<_> = slices.chunk_by(same_life).map(|life| render_life(life, width)).collect();
    lives.join("\n")
}

/// The line of a slice, apart from its bar.
struct Line {
    left: String,
    right: String,
}

fn render_life(life: &[SliceRow], width: usize) -> String {
    let Some(first) = life.first() else { return String::new() };
    let lines: Vec<_> = columns(life)
        .into_iter()
        .zip(life)
        .map(|(left, slice)| Line { left, right: causes(slice) })
        .collect();
    let longest =
        |part: fn(&Line) -> &str| lines.iter().map(|line| part(line).chars().count()).max().unwrap_or(0);
    let words = longest(|line| &line.left) + longest(|line| &line.right) + 4;
    let bar_width = width.saturating_sub(words).min(BAR_MAX);
    let mut out = format!(
        "{}/{}, generation {}, from {}\n",
        printable(&first.org),
        printable(&first.sandbox),
        first.generation,
        rfc3339(first.start_unix_ns)
    );
    for (line, slice) in lines.iter().zip(life) {
        let bar =
            if bar_width < BAR_MIN { String::new() } else { format!("{}  ", bar(life, slice, bar_width)) };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{}  {bar}{}", line.left, line.right);
    }
    out
}

/// Number, time of beginning, duration, state and memory of each slice, aligned. The heading has the day of a life of one.
fn columns(life: &[SliceRow]) -> Vec<String> {
    let day = |slice: &SliceRow| rfc3339(slice.start_unix_ns)[..DAY_LEN].to_owned();
    let is_one_day = life.iter().map(day).is_sorted_by(|a, b| a == b);
    let cells: Vec<[String; 5]> = life
        .iter()
        .map(|slice| {
            let state = slice.reason.as_ref().map_or_else(
                || slice.state.clone(),
                |reason| format!("{}:{}", slice.state, printable(reason)),
            );
            let started = rfc3339(slice.start_unix_ns);
            let time = &started[DAY_LEN + 1..started.len() - 1];
            let memory_bytes = slice.memory_base_bytes.saturating_add(slice.memory_plugged_bytes);
            [
                slice.seq.to_string(),
                if is_one_day { time.to_owned() } else { format!("{} {time}", &started[..DAY_LEN]) },
                duration(slice.duration_ns),
                state,
                Size(memory_bytes).to_string(),
            ]
        })
        .collect();
    let mut widths = [0; 5];
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let [seq, time, lasted, state, memory] = widths;
    cells
        .iter()
        .map(|[a, b, c, d, e]| format!("{a:>seq$}  {b:<time$}  {c:>lasted$}  {d:<state$}  {e:>memory$}"))
        .collect()
}

/// What opened the slice and what closed it, and by how much it may be wrong how long it lasted.
fn causes(slice: &SliceRow) -> String {
    let closed_by = slice.closed_by.as_deref().unwrap_or("(open)");
    let provisional = if slice.closed_by.is_some() && !slice.is_final { " (not final)" } else { "" };
    let uncertain = uncertain(slice.uncertainty_ns).map_or_else(String::new, |by| format!(" ({by})"));
    format!("{} → {}{provisional}{uncertain}", printable(&slice.opened_by), printable(closed_by))
}

/// Where in the life a slice lies: at least one cell, in the shade of its state.
fn bar(life: &[SliceRow], slice: &SliceRow, width: usize) -> String {
    let end_ns = |slice: &SliceRow| {
        slice.end_unix_ns.unwrap_or_else(|| slice.start_unix_ns.saturating_add_unsigned(slice.duration_ns))
    };
    let begin_ns = life.first().map_or(0, |first| first.start_unix_ns);
    let until_ns = life.last().map_or(0, end_ns);
    let whole_ns = u128::from(until_ns.abs_diff(begin_ns)).max(1);
    // Cells are counted, not measured: a `usize` holds what a terminal's width bounds.
    let cell = |at_ns: i64| {
        let cells =
            u128::from(at_ns.saturating_sub(begin_ns).max(0).unsigned_abs()) * (width as u128) / whole_ns;
        usize::try_from(cells).unwrap_or(width).min(width)
    };
    let from = cell(slice.start_unix_ns).min(width - 1);
    let to = cell(end_ns(slice)).max(from + 1);
    let shade = shade(&slice.state);
    (0..width).map(|at| if (from..to).contains(&at) { shade } else { ' ' }).collect()
}

/// Full where everything is billed, lighter where less is.
fn shade(state: &str) -> char {
    match state {
        "running" => '█',
        "hibernating" | "waking" => '▓',
        "paused" => '▒',
        "hibernated" | "suppressed" => '░',
        "faulted" => '!',
        _ => '?',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const START: i64 = 1_772_366_400_000_000_000; // 2026-03-01T12:00:00Z

    fn slice(seq: u64, state: &str, from_s: i64, to_s: Option<i64>) -> SliceRow {
        let end_s = to_s.unwrap_or(from_s + 10);
        SliceRow {
            org: "default".to_owned(),
            sandbox: "sb1".to_owned(),
            generation: 17,
            seq,
            state: state.to_owned(),
            reason: None,
            start_unix_ns: START + from_s * 1_000_000_000,
            end_unix_ns: to_s.map(|to_s| START + to_s * 1_000_000_000),
            duration_ns: (end_s - from_s).unsigned_abs() * SECOND,
            memory_base_bytes: 256 << 20,
            memory_plugged_bytes: 1 << 30,
            memory_requested_bytes: 1 << 30,
            vcpus_milli: 1_000,
            disk_bytes: 0,
            opened_by: "attach".to_owned(),
            closed_by: to_s.map(|_| "pause".to_owned()),
            command_id: None,
            opened_by_command_id: None,
            uncertainty_ns: 0,
            is_final: to_s.is_some(),
        }
    }

    #[test]
    fn a_life_is_shown_line_by_line_with_bars_that_tile() {
        let mut life = [
            slice(1, "running", 0, Some(20)),
            slice(2, "paused", 20, Some(30)),
            slice(3, "running", 30, None),
        ];
        life[1].uncertainty_ns = 300_000_000;
        assert_eq!(
            render(&life, 97),
            "default/sb1, generation 17, from 2026-03-01T12:00:00.000Z\n\
             1  12:00:00.000  20.000s  running  1.25GiB  ████████████              attach → pause\n\
             2  12:00:20.000  10.000s  paused   1.25GiB              ▒▒▒▒▒▒        attach → pause (±300.000ms)\n\
             3  12:00:30.000  10.000s  running  1.25GiB                    ██████  attach → (open)\n"
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_where_the_words_allow_it() {
        let life = [
            slice(1, "running", 0, Some(1)),
            slice(2, "hibernated", 1, Some(86_400)),
            slice(3, "waking", 86_400, None),
        ];
        for width in 75..=200 {
            let timeline = render(&life, width);
            assert!(timeline.lines().all(|line| line.chars().count() <= width), "{width}\n{timeline}");
        }
        assert!(render(&life, 0).contains("attach → (open)"), "the words stay whole");
    }

    #[test]
    fn a_life_of_several_days_says_which() {
        let life = [slice(1, "running", 0, Some(86_400)), slice(2, "paused", 86_400, None)];
        let timeline = render(&life, 80);
        assert!(timeline.contains("1  2026-03-01 12:00:00.000  "), "{timeline}");
        assert!(timeline.contains("2  2026-03-02 12:00:00.000  "), "{timeline}");
    }

    #[test]
    fn lives_have_a_heading_each() {
        let mut other = slice(1, "running", 0, None);
        other.sandbox = "sb2".to_owned();
        let timeline = render(&[slice(1, "running", 0, None), other], 80);
        assert_eq!(timeline.matches("generation 17").count(), 2);
        assert_eq!(render(&[], 80), "");
    }

    #[test]
    fn durations_are_shown_at_a_fitting_scale() {
        for (ns, text) in [
            (0, "0ns"),
            (1_500, "1us"),
            (41_800_000, "41.800ms"),
            (59_999_999_999, "59.999s"),
            (61 * SECOND, "1m 01s"),
            (7_322 * SECOND, "2h 02m"),
            (90_000 * SECOND, "1d 01h"),
        ] {
            assert_eq!(duration(ns), text);
        }
        assert_eq!(uncertain(36_711_385).as_deref(), Some("±36.711ms"));
        assert_eq!(uncertain(1_100), None, "as uncertain is every stamp of QEMU's");
    }
}
