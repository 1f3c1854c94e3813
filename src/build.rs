//! Generates the protobuf types of `proto/raftkvd.proto` into `OUT_DIR`, in pure Rust: no system `protoc` is needed.
//! It stands in `src/` and not at the top because the top level of the repository is kept to a fixed, short list.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=src/proto/raftkvd.proto");
    let out_dir = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    protobuf_codegen_pure::Codegen::new()
        .out_dir(out_dir)
        .include("src/proto")
        .input("src/proto/raftkvd.proto")
        .customize(protobuf_codegen_pure::Customize {
            // `bytes` fields become `bytes::Bytes`, so that a value is not copied when its entry is decoded.
            carllerche_bytes_for_bytes: Some(true),
            // A mod.rs allows `include!`: the generated file itself starts with inner attributes, which may not be.
            gen_mod_rs: Some(true),
            ..Default::default()
        })
        .run()
        .expect("raftkvd.proto is valid");
}
