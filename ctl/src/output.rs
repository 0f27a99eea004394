//! Tables, JSON and colour.

use std::io::{self, IsTerminal as _, Write as _};

use clap::ValueEnum;
use serde::Serialize;
use serde_json::json;

use crate::cli::Global;
use crate::failure::Failure;

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table with the usual columns
    Table,
    /// A table with all columns
    Wide,
    /// One JSON object
    Json,
    /// One JSON value a line
    Jsonl,
}

/// Where and how things are printed.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
    headers: bool,
    colour: bool,
    colour_error: bool,
}

/// A column of a table.
pub(crate) struct Column<T> {
    head: &'static str,
    wide: bool,
    right: bool,
    cell: fn(&T) -> String,
}

impl<T> Column<T> {
    /// A column of words.
    pub(crate) const fn new(head: &'static str, cell: fn(&T) -> String) -> Self {
        Self { head, wide: false, right: false, cell }
    }

    /// A column of numbers, aligned at their ends.
    pub(crate) const fn number(head: &'static str, cell: fn(&T) -> String) -> Self {
        Self { head, wide: false, right: true, cell }
    }

    /// A column of words of wide tables.
    pub(crate) const fn wide(head: &'static str, cell: fn(&T) -> String) -> Self {
        Self { head, wide: true, right: false, cell }
    }

    /// A column of words of wide tables, and of others if `shown`.
    pub(crate) const fn wide_or(shown: bool, head: &'static str, cell: fn(&T) -> String) -> Self {
        Self { head, wide: !shown, right: false, cell }
    }

    /// A column of numbers of wide tables.
    pub(crate) const fn wide_number(head: &'static str, cell: fn(&T) -> String) -> Self {
        Self { head, wide: true, right: true, cell }
    }
}

impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        let allowed = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self {
            format: if global.json { Format::Json } else { global.output },
            headers: !global.no_headers,
            colour: allowed && io::stdout().is_terminal(),
            colour_error: allowed && io::stderr().is_terminal(),
        }
    }

    /// Whether standard output is to have colour.
    pub(crate) fn colour(&self) -> bool {
        self.colour
    }

    /// Whether JSON was asked for, in either form.
    pub(crate) fn is_json(&self) -> bool {
        matches!(self.format, Format::Json | Format::Jsonl)
    }

    /// Prints a list: a table, an object with `items`, or an item a line.
    pub(crate) fn list<T: Serialize>(
        &self,
        items: &[T],
        columns: &[Column<T>],
    ) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.json(&json!({ "items": items })),
            Format::Jsonl => items.iter().try_for_each(|item| self.line(item)),
            Format::Table | Format::Wide => self.text(&self.table(items, columns)),
        }
    }

    /// Prints one object: as JSON if that was asked for, else as text.
    pub(crate) fn object<T: Serialize>(
        &self,
        object: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.json(object),
            Format::Jsonl => self.line(object),
            Format::Table | Format::Wide => self.text(&text()),
        }
    }

    /// Prints one element of a stream, at once.
    pub(crate) fn line<T: Serialize>(&self, item: &T) -> Result<(), Failure> {
        let mut line = serde_json::to_string(item).map_err(io::Error::other)?;
        line.push('\n');
        self.text(&line)
    }

    fn json<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        let mut text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
        text.push('\n');
        self.text(&text)
    }

    /// Prints text as it is.
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    /// Tells something beside what was asked for, on standard error.
    pub(crate) fn note(&self, text: &str) {
        // Nobody can be told that standard error is closed.
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// A table as text, for where there is more than a list.
    pub(crate) fn table<T>(&self, items: &[T], columns: &[Column<T>]) -> String {
        let columns: Vec<_> =
            columns.iter().filter(|column| !column.wide || self.format == Format::Wide).collect();
        let rows: Vec<Vec<String>> = items
            .iter()
            .map(|item| columns.iter().map(|column| shown(&(column.cell)(item))).collect())
            .collect();
        let width = |index: usize| {
            let head = if self.headers { columns[index].head.len() } else { 0 };
            let cells = rows.iter().map(|row| row[index].chars().count());
            cells.max().unwrap_or(0).max(head)
        };
        let widths: Vec<_> = (0..columns.len()).map(width).collect();
        let mut out = String::new();
        if self.headers {
            let heads = columns.iter().map(|column| column.head.to_owned()).collect::<Vec<_>>();
            let line = aligned(&heads, &widths, &columns, str::to_owned);
            out.push_str(&self.paint("1", &line));
            out.push('\n');
        }
        for row in &rows {
            out.push_str(&aligned(row, &widths, &columns, |word| self.painted(word)));
            out.push('\n');
        }
        out
    }

    /// Words that say how something is, in their colour.
    pub(crate) fn painted(&self, word: &str) -> String {
        match word {
            "up" | "ok" => self.paint("32", word),
            "failed" | "error" => self.paint("31", word),
            "waiting" | "down" | "warn" => self.paint("33", word),
            _ => word.to_owned(),
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// What is most important of several lines.
    pub(crate) fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    /// For standard error.
    pub(crate) fn red(&self, text: &str) -> String {
        if self.colour_error { format!("\x1b[1;31m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// For standard error.
    pub(crate) fn bold_error(&self, text: &str) -> String {
        if self.colour_error { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// One line a row, whatever is in it: a cell is never empty and never breaks the line.
fn shown(cell: &str) -> String {
    if cell.is_empty() {
        return "-".into();
    }
    cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn aligned<T>(
    cells: &[String],
    widths: &[usize],
    columns: &[&Column<T>],
    paint: impl Fn(&str) -> String,
) -> String {
    let mut line = String::new();
    for (index, cell) in cells.iter().enumerate() {
        let pad = " ".repeat(widths[index].saturating_sub(cell.chars().count()));
        if columns[index].right {
            line.push_str(&pad);
            line.push_str(&paint(cell));
        } else {
            line.push_str(&paint(cell));
            line.push_str(&pad);
        }
        if index + 1 < cells.len() {
            line.push_str("  ");
        }
    }
    line.trim_end().to_owned()
}

/// `yes` or `no`.
pub(crate) fn yes(flag: bool) -> String {
    if flag { "yes" } else { "no" }.to_owned()
}

/// The value, or nothing.
pub(crate) fn maybe<T: ToString>(value: Option<&T>) -> String {
    value.map_or_else(String::new, ToString::to_string)
}
