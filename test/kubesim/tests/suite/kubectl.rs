//! Owns the test with the real kubectl. Without one on the machine it has nothing to say and passes.

use std::path::Path;
use std::process::Command;

use kubesim::Server;
use serde_json::{Value, json};

use crate::client::{await_phase, claim, class, volume};

struct Kubectl<'a> {
    home: &'a Path,
}

impl Kubectl<'_> {
    fn run(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new("kubectl")
            .args(arguments)
            .env("HOME", self.home)
            .env("KUBECONFIG", self.home.join("config"))
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).concat();
        (output.status.success(), text)
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let (success, text) = self.run(arguments);
        assert!(success, "kubectl {arguments:?}: {text}");
        text
    }
}

#[test]
fn kubectl_creates_shows_annotates_patches_and_deletes() {
    if Command::new("kubectl").args(["version", "--client"]).output().is_err() {
        return;
    }
    let home = std::env::temp_dir().join(format!("kubesim-kubectl-{}", std::process::id()));
    std::fs::create_dir_all(&home).unwrap();
    let server = Server::start().unwrap();
    // No token: kubectl keeps its credentials to itself over plain HTTP.
    server.write_kubeconfig(home.join("config")).unwrap();
    let mut documents = vec![class("Immediate"), volume("a", "1Gi"), claim("c", "1Gi")];
    for (document, (version, kind)) in documents.iter_mut().zip([
        ("storage.k8s.io/v1", "StorageClass"),
        ("v1", "PersistentVolume"),
        ("v1", "PersistentVolumeClaim"),
    ]) {
        document["apiVersion"] = json!(version);
        document["kind"] = json!(kind);
    }
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": documents });
    let file = home.join("list.json");
    std::fs::write(&file, list.to_string()).unwrap();
    let file = file.to_str().unwrap();

    let kubectl = Kubectl { home: &home };
    assert_eq!(kubectl.ok(&["create", "-f", file]).lines().count(), 3, "with its validation");
    await_phase(&server, "pv", "a", "Bound");
    let table = kubectl.ok(&["get", "pv,pvc"]);
    assert!(table.contains("RECLAIM POLICY") && table.contains("default/c"), "{table}");
    kubectl.ok(&["annotate", "pv", "a", "x.y/z=1"]);
    kubectl.ok(&["label", "node,pv", "--all", "l=1"]);
    kubectl.ok(&[
        "patch",
        "pv",
        "a",
        "--type=json",
        "-p",
        r#"[{"op":"add","path":"/metadata/annotations/q","value":"w"}]"#,
    ]);
    let v: Value = serde_json::from_str(&kubectl.ok(&["get", "pv", "a", "-o", "json"])).unwrap();
    assert_eq!(
        (&v["metadata"]["annotations"]["x.y/z"], &v["metadata"]["annotations"]["q"]),
        (&json!("1"), &json!("w"))
    );
    kubectl.ok(&["wait", "--for=jsonpath={.status.phase}=Bound", "pv/a", "--timeout=5s"]);
    kubectl.ok(&["delete", "pvc", "c"]);
    kubectl.ok(&["delete", "pv", "a"]);
    let (success, text) = kubectl.run(&["get", "pv", "a"]);
    assert!(!success && text.contains("NotFound"), "{text}");
    let mut bad = volume("Bad_Name", "1Gi");
    bad["kind"] = json!("PersistentVolume");
    std::fs::write(file, bad.to_string()).unwrap();
    let (success, text) = kubectl.run(&["create", "-f", file]);
    assert!(!success && text.contains("RFC 1123"), "{text}");
    std::fs::remove_dir_all(&home).unwrap();
}
