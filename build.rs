//! Embeds the player of recordings where `SANDGLASS_PLAYER` names the folder with its files (`e2e/page/assets` makes it).

fn main() {
    println!("cargo:rustc-check-cfg=cfg(sandglass_player)");
    println!("cargo:rerun-if-env-changed=SANDGLASS_PLAYER");
    if std::env::var_os("SANDGLASS_PLAYER").is_some_and(|folder| !folder.is_empty()) {
        println!("cargo:rustc-cfg=sandglass_player");
    }
}
