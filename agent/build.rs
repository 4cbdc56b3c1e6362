//! Leaves out of the static binary what only unwinding would need (`link/no-unwinding.ld`).

fn main() {
    println!("cargo::rerun-if-changed=link/no-unwinding.ld");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    // The profile that ships, and in which a panic aborts (the root Cargo.toml).
    if is("CARGO_CFG_TARGET_ENV", "musl") && is("PROFILE", "release") {
        let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("link/no-unwinding.ld");
        println!("cargo::rustc-link-arg-bins=-T{}", script.display());
        println!("cargo::rustc-link-arg-bins=--no-eh-frame-hdr");
    }
}
