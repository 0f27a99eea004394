//! Replays the fuzz corpora, and whatever once crashed a target, on a stable compiler.

use std::fs;
use std::path::Path;

use switch_core::testing::fuzz::TARGETS;

#[test]
fn every_corpus_file_passes_its_target() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (target, body) in TARGETS {
        let folder = corpora.join(target);
        let files = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut replayed = 0;
        for file in files {
            let path = file.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            // The name of the file that a panic is about; shown only when the test fails.
            println!("{}", path.display());
            body(&bytes);
            replayed += 1;
        }
        assert!(replayed >= 20, "{target}: only {replayed} corpus files");
    }
}
