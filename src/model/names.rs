//! Names and keys that others rely on: PV names, label values, the original's labels and annotations.
//! Nothing here looks at a device or the cluster.

/// Label that every PV of ours carries; watches select by it.
pub const NODE_LABEL: &str = "local-pv-provisioner.cybozu.com/node";
/// The original's second label with the same value.
pub const NODE_LABEL_IO: &str = "local-pv-provisioner.cybozu.io/node";
/// Node annotation that names the PV spec ConfigMap.
pub const PV_SPEC_ANNOTATION: &str = "local-pv-provisioner.cybozu.io/pv-spec-configmap";
/// Node annotation in which a person approves: nonces separated by commas (SAFETY section 6).
pub const APPROVE_ANNOTATION: &str = "local-pv-provisioner.cybozu.io/approve-wipe";
/// PV annotation: the device's identity when the PV was made.
pub const IDENTITY_ANNOTATION: &str = "local-pv-provisioner.cybozu.io/device-identity";
/// PV annotation: which POST made it, so that a POST without an answer is found again.
pub const OFFER_ANNOTATION: &str = "local-pv-provisioner.cybozu.io/offer-id";
/// Annotation of a cleanup Job: the claim after whose release it cleans. One of another release says nothing.
pub const CLAIM_ANNOTATION: &str = "local-pv-provisioner.cybozu.io/claim-uid";
/// Annotation of a cleanup Job: the boot in which its device was looked at.
pub const BOOT_ANNOTATION: &str = "local-pv-provisioner.cybozu.io/boot-id";
/// PV annotation of external provisioners, which the original of discovery directories sets.
pub const PROVISIONED_BY_ANNOTATION: &str = "pv.kubernetes.io/provisioned-by";
/// PVC annotation of `node-cleanup`: since when the claim's node is gone, so that the delay outlives the controller.
pub const NODE_GONE_ANNOTATION: &str = "local-pv-provisioner.cybozu.io/node-gone-since";
/// The prefix of the settings annotations on PVs.
pub const SETTINGS_PREFIX: &str = "local-pv-provisioner.cybozu.io/";
/// Node label whose value stands in the PV's affinity.
pub const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";

/// Kubernetes: a label value has at most 63 characters.
const LABEL_VALUE_MAX: usize = 63;
/// Kubernetes: an object name is a DNS-1123 subdomain of at most 253 characters.
const OBJECT_NAME_MAX: usize = 253;
/// What is kept of a name that ends in a hash: 54 + `-` + 8 = 63 fits a label value too.
const KEPT: usize = 54;

/// `local-<node>-<base name>`, each run of other characters than `[.0-9A-Za-z]` one `-`, lower-cased: the original's
/// rule. A result that is no valid object name ends in a hash of the unfolded name.
pub fn pv_name(node: &str, base_name: &str) -> String {
    let raw = format!("local-{node}-{base_name}");
    let folded = fold(&raw, |c| c.is_ascii_alphanumeric() || c == '.').to_ascii_lowercase();
    if is_object_name(&folded) { folded } else { hashed(&folded, &raw) }
}

/// A node name as a label value: itself where that is valid (IP addresses are), else bounded and hashed.
pub fn label_value(node: &str) -> String {
    if is_label_value(node) { node.to_owned() } else { hashed(node, node) }
}

/// Whether a label can have this value, which is not empty.
pub fn is_label_value(text: &str) -> bool {
    text.len() <= LABEL_VALUE_MAX
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
}

/// DNS-1123 subdomain.
pub fn is_object_name(name: &str) -> bool {
    name.len() <= OBJECT_NAME_MAX
        && name.split('.').all(|part| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !part.starts_with('-')
                && !part.ends_with('-')
        })
}

/// SHA-256 in lower-case hex, cut to `chars`.
pub fn short_hash(text: &[u8], chars: usize) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text);
    let mut hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    hex.truncate(chars);
    hex
}

fn hashed(shown: &str, whole: &str) -> String {
    let folded = fold(&shown.to_ascii_lowercase(), |c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let kept: String = folded.chars().take(KEPT).collect();
    format!("{}-{}", kept.trim_matches('-'), short_hash(whole.as_bytes(), 8))
}

fn fold(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if keep(c) {
            out.push(c);
        } else if !out.ends_with('-') {
            out.push('-');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pv_is_named_as_the_original_names_it() {
        assert_eq!(pv_name("node1", "pci-0000:3b:00.0-ata-1"), "local-node1-pci-0000-3b-00.0-ata-1");
        assert_eq!(pv_name("minikube-worker", "loop0"), "local-minikube-worker-loop0");
        assert_eq!(pv_name("n", "A__b::C"), "local-n-a-b-c");
        assert_eq!(pv_name("10.0.0.1", "sda"), "local-10.0.0.1-sda");
    }

    #[test]
    fn a_run_of_other_characters_becomes_one_dash_also_beside_a_dash() {
        assert_eq!(pv_name("n", "a-:-b"), "local-n-a-b");
        assert_eq!(pv_name("n", "a--b"), "local-n-a-b");
    }

    #[test]
    fn names_that_are_invalid_or_too_long_end_in_a_hash() {
        for base in ["disk_", "a..b", "x.-y", &"d".repeat(300), "ü"] {
            let name = pv_name("n", base);
            assert!(is_object_name(&name), "{name}");
            assert!(name.len() <= 63, "{name}");
        }
        assert_ne!(pv_name("n", "disk_"), pv_name("n", "disk:"));
        assert_eq!(pv_name("n", &"d".repeat(300)).len(), 54 + 1 + 8);
    }

    #[test]
    fn label_values_are_valid_for_every_node_name() {
        assert_eq!(label_value("node1.example.com"), "node1.example.com");
        assert_eq!(label_value("10.1.2.3"), "10.1.2.3");
        let long = format!("{}.example.com", "n".repeat(80));
        let value = label_value(&long);
        assert_eq!(value.len(), 63);
        assert_ne!(value, label_value(&format!("{}.example.org", "n".repeat(80))));
    }

    #[test]
    fn object_names_are_dns_subdomains() {
        for (name, valid) in [("a", true), ("a.b-c", true), ("a.", false), ("-a", false), ("A", false), ("", false)] {
            assert_eq!(is_object_name(name), valid, "{name}");
        }
    }
}
