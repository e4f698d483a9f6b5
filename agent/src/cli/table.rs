//! Tables that fit the terminal: where they do not, the widest columns that may be shortened are.

use std::borrow::Cow;

use console::{Alignment, Term, measure_text_width, pad_str, truncate_str};

const GAP: &str = "  ";

/// A column that is shortened keeps at least so many characters.
const SHORTENED_MIN: usize = 8;

/// A column of a table.
#[derive(Clone, Copy)]
pub(super) struct Column {
    name: &'static str,
    alignment: Alignment,
    may_shorten: bool,
}

impl Column {
    /// Text that is shown whole.
    pub(super) const fn text(name: &'static str) -> Self {
        Self { name, alignment: Alignment::Left, may_shorten: false }
    }

    /// Text that may be shortened.
    pub(super) const fn long(name: &'static str) -> Self {
        Self { may_shorten: true, ..Self::text(name) }
    }

    /// A number, shown whole.
    pub(super) const fn number(name: &'static str) -> Self {
        Self { alignment: Alignment::Right, ..Self::text(name) }
    }
}

/// Lays a table out in `width` columns of a terminal; without a width everything is shown whole.
pub(super) fn render<const N: usize>(
    columns: [Column; N],
    rows: &[[String; N]],
    width: Option<usize>,
) -> String {
    let widths = fit(columns, rows, width);
    let header = columns.map(|column| column.name.to_owned());
    let mut out = String::new();
    for row in std::iter::once(&header).chain(rows) {
        let cells = row.iter().zip(columns).zip(widths).map(|((cell, column), width)| {
            let cell = printable(cell);
            let cell = truncate_str(&cell, width, "…");
            pad_str(&cell, width, column.alignment, None).into_owned()
        });
        let line = cells.collect::<Vec<_>>().join(GAP);
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn fit<const N: usize>(columns: [Column; N], rows: &[[String; N]], width: Option<usize>) -> [usize; N] {
    let mut widths = columns.map(|column| measure_text_width(column.name));
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(measure_text_width(&printable(cell)));
        }
    }
    let Some(limit) = width else { return widths };
    let gaps = GAP.len() * N.saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > limit {
        let shortenable = widths
            .iter_mut()
            .zip(columns)
            .filter(|(width, column)| column.may_shorten && **width > SHORTENED_MIN);
        match shortenable.max_by_key(|(width, _)| **width) {
            Some((width, _)) => *width -= 1,
            None => break,
        }
    }
    widths
}

/// Text as it may go to a terminal: what would steer the terminal is replaced.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        Cow::Owned(text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// How wide standard output is, if it is a terminal.
pub(super) fn terminal_width() -> Option<usize> {
    let terminal = Term::stdout();
    if !terminal.is_term() {
        return None;
    }
    terminal.size_checked().map(|(_, columns)| usize::from(columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [Column::text("ID"), Column::number("SIZE"), Column::long("TAGS")];

    fn rows() -> Vec<[String; 3]> {
        vec![
            ["sb1".to_owned(), "1GiB".to_owned(), "team=blue,ring=canary,owner=platform".to_owned()],
            ["a-longer-id".to_owned(), "512MiB".to_owned(), "ü=日本".to_owned()],
        ]
    }

    #[test]
    fn without_a_terminal_everything_is_shown_whole() {
        assert_eq!(
            render(COLUMNS, &rows(), None),
            "ID             SIZE  TAGS\n\
             sb1            1GiB  team=blue,ring=canary,owner=platform\n\
             a-longer-id  512MiB  ü=日本\n"
        );
    }

    #[test]
    fn on_a_terminal_long_columns_are_shortened_and_no_line_is_too_long() {
        for width in 29..=60 {
            let table = render(COLUMNS, &rows(), Some(width));
            assert!(table.lines().all(|line| measure_text_width(line) <= width), "{width}\n{table}");
            assert!(table.contains("a-longer-id  512MiB"), "{table}");
        }
        assert!(render(COLUMNS, &rows(), Some(40)).contains("team=blue,ring=can…\n"));
    }

    #[test]
    fn what_must_be_whole_is_whole_however_narrow_the_terminal() {
        assert!(render(COLUMNS, &rows(), Some(5)).contains("a-longer-id  512MiB"));
    }

    #[test]
    fn a_cell_cannot_steer_the_terminal() {
        let rows = [["a\u{1b}[2Jb".to_owned()]];
        assert_eq!(render([Column::text("ID")], &rows, None), "ID\na\u{fffd}[2Jb\n");
    }
}
