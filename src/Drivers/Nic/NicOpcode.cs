namespace Virtbus.Drivers.Nic;

/// <summary>Commands; see docs/adapter-registers.md.</summary>
internal enum NicOpcode : ushort
{
    CreateQueueSet = 3,
    DestroyQueueSet = 4,
    SetLink = 5,
    QueryVirtualFunction = 16,
    SetVirtualFunction = 17,
    SuspendVirtualFunction = 18,
    ResumeVirtualFunction = 19,
    SaveVirtualFunction = 20,
    LoadVirtualFunction = 21,
    QueryGeneration = 22,
    CreateVirtioBlock = 32,
    DestroyVirtio = 33,
}
