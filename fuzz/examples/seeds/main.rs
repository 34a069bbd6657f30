//! Writes the inputs that are made by hand into `corpus/`: `cargo run --example seeds`.

mod bus;
mod decode;
mod frames;
mod key;
mod merge;

use std::path::Path;

fn main() {
    write("frames", frames::seeds());
    write("decode", decode::seeds());
    write("merge", merge::seeds());
    write("key", key::seeds());
    write("bus", bus::seeds());
}

fn write(target: &str, seeds: Vec<(String, Vec<u8>)>) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&dir).expect("a directory");
    println!("{target}: {} inputs", seeds.len());
    for (name, input) in seeds {
        std::fs::write(dir.join(name), input).expect("written");
    }
}
