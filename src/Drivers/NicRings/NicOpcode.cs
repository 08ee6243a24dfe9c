namespace Virtbus.Drivers.NicRings;

/// <summary>Commands; see docs/adapter-registers.md.</summary>
internal enum NicOpcode : ushort
{
    CreateQueueSet = 3,
    DestroyQueueSet = 4,
    SetLink = 5,
    QueryFunction = 16,
    SetFunction = 17,
    SuspendFunction = 18,
    ResumeFunction = 19,
    SaveFunction = 20,
    LoadFunction = 21,
    QueryGeneration = 22,
    CreateVirtioBlock = 32,
    DestroyVirtio = 33,
}
