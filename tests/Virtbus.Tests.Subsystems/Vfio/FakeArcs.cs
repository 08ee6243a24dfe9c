using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests.Subsystems.Vfio;

/// <summary>A driver's part of a migration that records the steps.</summary>
internal sealed class FakeArcs : IVfioMigrationArcs
{
    public required VfioMigrationFlags Flags { get; init; }

    public ulong DataSize => 4711;

    public List<(VfioMigrationState From, VfioMigrationState To)> Steps { get; } = [];

    public VfioRecordWriter Saved { get; } = new();

    public List<byte> Loaded { get; } = [];

    public int Sessions { get; set; }

    public Func<VfioMigrationState, Fault>? OnMove { get; set; }

    public Fault WriteFault { get; set; }

    public bool TryMove(VfioMigrationState from, VfioMigrationState to, out Fault fault)
    {
        fault = OnMove?.Invoke(to) ?? Fault.None;
        if (fault != Fault.None)
            return false;
        Steps.Add((from, to));
        return true;
    }

    public bool TryRead(Span<byte> destination, out int count, out Fault fault)
    {
        count = Saved.Read(destination);
        fault = Fault.None;
        return true;
    }

    public bool TryWrite(ReadOnlySpan<byte> source, out Fault fault)
    {
        Loaded.AddRange(source);
        fault = WriteFault;
        return fault == Fault.None;
    }

    public void GetPreCopyInfo(out ulong initialBytes, out ulong dirtyBytes)
    {
        initialBytes = Saved.Pending;
        dirtyBytes = 5;
    }

    public void EndSession() => Sessions++;
}
