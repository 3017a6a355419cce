//! The reasons of our Kubernetes Events: one word each, listed in README's troubleshooting table.

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Reason {
    DeviceRefused,
    DeviceQuarantined,
    DeviceError,
    DeviceMissing,
    CleaningOwed,
    DeviceCleaned,
    ForeignVolume,
    SettingsMissing,
    SettingsInvalid,
    SettingsUnknownKey,
    SettingsMismatch,
    DeviceDirUnreadable,
    MemoryLost,
    LedgerUnwritable,
    ConfigInvalid,
    ConfigWarning,
    FirstStart,
    TaintNotRemoved,
    CleaningProgress,
    VolumeDelete,
    VolumeFailedDelete,
    VolumeUnsupportedReclaimPolicy,
    VolumeUnknownReclaimPolicy,
    ReferencedNodeDeleted,
}

impl Reason {
    pub const ALL: [Reason; 24] = [
        Reason::DeviceRefused,
        Reason::DeviceQuarantined,
        Reason::DeviceError,
        Reason::DeviceMissing,
        Reason::CleaningOwed,
        Reason::DeviceCleaned,
        Reason::ForeignVolume,
        Reason::SettingsMissing,
        Reason::SettingsInvalid,
        Reason::SettingsUnknownKey,
        Reason::SettingsMismatch,
        Reason::DeviceDirUnreadable,
        Reason::MemoryLost,
        Reason::LedgerUnwritable,
        Reason::ConfigInvalid,
        Reason::ConfigWarning,
        Reason::FirstStart,
        Reason::TaintNotRemoved,
        Reason::CleaningProgress,
        Reason::VolumeDelete,
        Reason::VolumeFailedDelete,
        Reason::VolumeUnsupportedReclaimPolicy,
        Reason::VolumeUnknownReclaimPolicy,
        Reason::ReferencedNodeDeleted,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Reason::DeviceRefused => "DeviceRefused",
            Reason::DeviceQuarantined => "DeviceQuarantined",
            Reason::DeviceError => "DeviceError",
            Reason::DeviceMissing => "DeviceMissing",
            Reason::CleaningOwed => "CleaningOwed",
            Reason::DeviceCleaned => "DeviceCleaned",
            Reason::ForeignVolume => "ForeignVolume",
            Reason::SettingsMissing => "SettingsMissing",
            Reason::SettingsInvalid => "SettingsInvalid",
            Reason::SettingsUnknownKey => "SettingsUnknownKey",
            Reason::SettingsMismatch => "SettingsMismatch",
            Reason::DeviceDirUnreadable => "DeviceDirUnreadable",
            Reason::MemoryLost => "MemoryLost",
            Reason::LedgerUnwritable => "LedgerUnwritable",
            Reason::ConfigInvalid => "ConfigInvalid",
            Reason::ConfigWarning => "ConfigWarning",
            Reason::FirstStart => "FirstStart",
            Reason::TaintNotRemoved => "TaintNotRemoved",
            Reason::CleaningProgress => "CleaningProgress",
            Reason::VolumeDelete => "VolumeDelete",
            Reason::VolumeFailedDelete => "VolumeFailedDelete",
            Reason::VolumeUnsupportedReclaimPolicy => "VolumeUnsupportedReclaimPolicy",
            Reason::VolumeUnknownReclaimPolicy => "VolumeUnknownReclaimPolicy",
            Reason::ReferencedNodeDeleted => "ReferencedNodeDeleted",
        }
    }
}
