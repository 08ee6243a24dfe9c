namespace Virtbus.Core;

/// <summary>How far into system sleep a device is.</summary>
internal enum SleepPhase
{
    Awake,
    Prepared,
    Suspended,
    SuspendedLate,
    SuspendedNoIrq,
}
