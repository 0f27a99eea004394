//! Replays the fuzz corpora, and whatever once crashed a target, on a stable compiler.

use std::fs;
use std::path::Path;

use vswitch_api::config;

#[test]
fn every_corpus_file_passes_its_target() {
    type Body = fn(&[u8]);
    let targets: [(&str, Body); 2] =
        [("config_file", config::fuzz_config), ("api_request", config::fuzz_request)];
    for (target, body) in targets {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
        let files = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut replayed = 0;
        for file in files {
            let path = file.unwrap().path();
            // The name of the file that a panic is about; shown only when the test fails.
            println!("{}", path.display());
            body(&fs::read(&path).unwrap());
            replayed += 1;
        }
        assert!(replayed >= 20, "{target}: only {replayed} corpus files");
    }
}
