//! What is asked of the programs that measure switches side by side, row by row.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::pairs::PAIRS;

/// Which rows and switches are measured, and how often. `S` names the switches.
#[derive(Debug, clap::Args)]
pub struct Choice<S: ValueEnum + Send + Sync + 'static> {
    /// Only these rows, by name or how it begins; `--list` shows them.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Show the rows and end.
    #[arg(long)]
    pub list: bool,
    /// How often all switches of a row are measured in turn.
    #[arg(long, default_value_t = PAIRS)]
    pub pairs: usize,
    /// One pair and one second each, to see whether it works.
    #[arg(long)]
    pub quick: bool,
    /// Measure only these of the switches of each row.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub sides: Vec<S>,
    /// Measure only our switch.
    #[arg(long)]
    pub no_peers: bool,
    /// The `vswitchd` to measure; `vswitch-ctl` must lie beside it.
    #[arg(long)]
    pub vswitchd: Option<PathBuf>,
}

impl<S: ValueEnum + PartialEq + Send + Sync + 'static> Choice<S> {
    /// The directory of our programs, where it was given.
    ///
    /// # Errors
    /// There is no such file.
    pub fn binaries(&self) -> Result<Option<PathBuf>> {
        let vswitchd = self.vswitchd.as_deref().map(Path::canonicalize).transpose();
        Ok(vswitchd.context("--vswitchd")?.and_then(|path| path.parent().map(Path::to_owned)))
    }

    /// Those of `rows` that are asked for, by their names or by how those begin; all if none is. A
    /// whole name means that row alone: `l2-1` is not `l2-1000`.
    pub fn rows<R>(&self, rows: &'static [R], name: impl Fn(&R) -> &str) -> Vec<&'static R> {
        let is_name = |word: &str| rows.iter().any(|row| name(row) == word);
        let asked = |row: &&R| {
            let name = name(row);
            let matches = |word: &String| name == word || !is_name(word) && name.starts_with(word);
            self.only.is_empty() || self.only.iter().any(matches)
        };
        rows.iter().filter(asked).collect()
    }

    /// Whether a switch of a row is to be measured, in which `ours` is our own.
    pub fn wants(&self, side: &S, ours: &S) -> bool {
        let named = self.sides.is_empty() || self.sides.contains(side);
        named && (side == ours || !self.no_peers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
    enum Side {
        Ours,
    }

    #[test]
    fn rows_are_chosen_by_name_or_by_how_names_begin() {
        const ROWS: &[&str] = &["l2-1", "l2-1000", "l2-50000", "l2-500000", "vxlan-both"];
        let chosen = |only: &[&str]| {
            let choice: Choice<Side> = Choice {
                only: only.iter().map(ToString::to_string).collect(),
                list: false,
                pairs: 1,
                quick: false,
                sides: vec![Side::Ours],
                no_peers: false,
                vswitchd: None,
            };
            choice.rows(ROWS, |row| row).into_iter().copied().collect::<Vec<_>>()
        };
        assert_eq!(chosen(&[]), ROWS);
        assert_eq!(chosen(&["l2-1"]), ["l2-1"]);
        assert_eq!(chosen(&["l2-5"]), ["l2-50000", "l2-500000"]);
        assert_eq!(chosen(&["vxlan", "l2-1000"]), ["l2-1000", "vxlan-both"]);
        assert!(chosen(&["nothing"]).is_empty());
    }
}
