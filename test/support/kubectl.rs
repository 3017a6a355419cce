//! `kubectl` on one cluster.

use super::Scratch;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub struct Kubectl {
    pub kubeconfig: PathBuf,
    /// Its cache of what the server knows: in $HOME it would be shared with other clusters.
    home: Scratch,
}

impl Kubectl {
    pub fn new(kubeconfig: &Path) -> Kubectl {
        Kubectl { kubeconfig: kubeconfig.to_owned(), home: Scratch::new("kubectl") }
    }

    pub fn attempt(&self, args: &[&str], input: &str) -> Result<String, String> {
        let mut child = Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(args)
            .env("HOME", &self.home.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    pub fn run(&self, args: &[&str], input: &str) -> String {
        self.attempt(args, input).unwrap_or_else(|error| panic!("kubectl {args:?}: {error}"))
    }

    pub fn apply(&self, object: &Value) {
        self.run(&["apply", "-f", "-"], &object.to_string());
    }

    /// `None` where there is none.
    pub fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let text = self.attempt(&["get", kind, name, "-o", "json"], "").ok()?;
        serde_json::from_str(&text).ok()
    }

    pub fn list(&self, kind: &str) -> Vec<Value> {
        let text = self.run(&["get", kind, "-o", "json"], "");
        let list: Value = serde_json::from_str(&text).unwrap();
        list["items"].as_array().unwrap().clone()
    }
}
