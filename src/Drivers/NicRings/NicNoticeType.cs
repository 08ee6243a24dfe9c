namespace Virtbus.Drivers.NicRings;

/// <summary>Kinds of events; see docs/adapter-registers.md.</summary>
internal enum NicNoticeType : ushort
{
    CommandDone = 1,
    Link = 2,
    QueueError = 3,
    VirtioError = 4,
    VirtioConfig = 5,
}
