//! What commands write: tables and lines to stdout, progress to stderr.

use std::io::{self, Write};

use indicatif::{ProgressBar, ProgressStyle};

/// Rows under a heading, in columns as wide as their widest cell.
pub(crate) fn table<const N: usize>(
    to: &mut impl Write,
    heading: [&str; N],
    rows: &[[String; N]],
) -> Result<(), io::Error> {
    let mut widths = heading.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let heading = heading.map(str::to_owned);
    for row in std::iter::once(&heading).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line += &format!("{cell:width$}  ");
        }
        writeln!(to, "{}", line.trim_end())?;
    }
    Ok(())
}

/// The text on one line: what came from a device may hold anything.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// That nobody reads on is how `| head` ends a command, and no failure.
pub(crate) fn unless_closed(written: io::Result<()>) -> io::Result<()> {
    written.or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
}

/// A bar that fills up to that many; nothing is shown where stderr is no terminal.
pub(crate) fn bar(length: u64) -> ProgressBar {
    styled(ProgressBar::new(length), "{bar:32} {pos}/{len} {msg} ({eta} left)")
}

/// The progress of something that has no known end; nothing is shown where stderr is no terminal.
pub(crate) fn counter() -> ProgressBar {
    styled(ProgressBar::new_spinner(), "{spinner} {pos} rows {msg} ({per_sec})")
}

/// Something that is under way; nothing is shown where stderr is no terminal.
pub(crate) fn spinner() -> ProgressBar {
    styled(ProgressBar::new_spinner(), "{spinner} {msg} {elapsed}")
}

fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    bar.with_style(ProgressStyle::with_template(template).expect("the template is one"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut text = Vec::new();
        let rows = [["søster".to_owned(), "1".to_owned()], ["a".to_owned(), String::new()]];
        table(&mut text, ["USER", "ID"], &rows).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), "USER    ID\nsøster  1\na\n");
    }

    #[test]
    fn a_cell_stays_on_its_line() {
        assert_eq!(one_line("a\nb\u{1b}[2Jc"), "a b [2Jc");
    }

    #[test]
    fn progress_can_be_shown() {
        bar(1).finish();
        counter().finish();
        spinner().finish();
    }
}
