//! Generates the protobuf types of `raftkvd.proto` into `OUT_DIR`, in pure Rust: no system `protoc` is needed. The file
//! is in `src/` because the top level of the repository is kept to a fixed, short list.

// A build script sends its instructions to cargo through stdout.
#![allow(clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::{env, fs};

const PROTO: &str = "src/command/raftkvd.proto";

fn main() {
    println!("cargo:rerun-if-changed={PROTO}");
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let proto = match env::var_os("CARGO_FEATURE_LATER") {
        Some(_) => later(&out_dir),
        None => PathBuf::from(PROTO),
    };
    protobuf_codegen_pure::Codegen::new()
        .out_dir(out_dir)
        .include(proto.parent().expect("raftkvd.proto is in a directory"))
        .input(&proto)
        .customize(protobuf_codegen_pure::Customize {
            // `bytes` fields become `bytes::Bytes`, so that a value is not copied when its entry is decoded.
            carllerche_bytes_for_bytes: Some(true),
            // A generated mod.rs works with `include!`. The generated file itself does not, since it starts with inner
            // attributes.
            gen_mod_rs: Some(true),
            ..Default::default()
        })
        .run()
        .expect("raftkvd.proto is valid");
}

/// `raftkvd.proto` with one additional kind of command. A build without the feature does not even contain its name.
fn later(out_dir: &Path) -> PathBuf {
    const FIRST: &str = "  Put = 0;\n";
    let known = fs::read_to_string(PROTO).expect("raftkvd.proto can be read");
    assert!(known.contains(FIRST), "raftkvd.proto has no kind Put");
    let dir = out_dir.join("later");
    fs::create_dir_all(&dir).expect("OUT_DIR can be written");
    let proto = dir.join("raftkvd.proto");
    let more = known.replace(FIRST, &format!("{FIRST}  Later = 1000;\n"));
    fs::write(&proto, more).expect("OUT_DIR can be written");
    proto
}
