using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Models.VirtioConsole;

/// <summary>Hands bytes of the guest on.</summary>
/// <returns>How many were taken.</returns>
internal delegate int ConsoleSink(ReadOnlySpan<byte> bytes);

/// <summary>What both queues have.</summary>
internal abstract class ConsoleQueue : IQueueProcessor
{
    private const int SpareRuns = 64;

    private ulong _requests;
    private ulong _bytes;

    public (ulong Requests, ulong Bytes, ulong Errors) Counters => (Volatile.Read(ref _requests), Volatile.Read(ref _bytes), 0);

    public abstract bool IsFull { get; }

    protected DescriptorChain Chain { get; private set; } = new(1);

    protected DeviceRing Ring { get; private set; } = null!;

    public void Start(DeviceRing ring, VirtioFeatures features)
    {
        Ring = ring;
        // Runs beyond one for each descriptor, for buffers that cross region borders.
        if (Chain.Capacity < ring.Size + SpareRuns)
            Chain = new DescriptorChain(ring.Size + SpareRuns);
    }

    public abstract bool Process(out Fault fault);

    public void Drain()
    {
    }

    public void Dispose()
    {
    }

    protected void Complete(uint written, int bytes)
    {
        Ring.Complete(Chain, written);
        _requests++;
        _bytes += (ulong)bytes;
    }
}

/// <summary>Queue 0: the guest's buffers wait there until there is text for them.</summary>
internal sealed class ConsoleInputQueue(ConsoleInput input, Action canSend) : ConsoleQueue
{
    private readonly byte[] _text = new byte[1024];

    // Buffers alone are no work.
    public override bool IsFull => input.IsEmpty;

    public override bool Process(out Fault fault)
    {
        fault = Fault.None;
        if (input.IsEmpty || !Ring.TryTake(Chain, out fault))
            return false;
        var count = input.Take(_text.AsSpan(0, (int)Math.Min(Chain.WritableLength, (uint)_text.Length)));
        Complete(Chain.Write(_text.AsSpan(0, count)), count);
        if (input.TakeRefusal())
            canSend();
        return true;
    }
}

/// <summary>Queue 1: a buffer is the guest's again as soon as its text is copied, and the next one waits until the other end has that.</summary>
internal sealed class ConsoleOutputQueue(ConsoleOutput output, ConsoleSink send) : ConsoleQueue
{
    public override bool IsFull => !output.IsEmpty;

    public override bool Process(out Fault fault)
    {
        fault = Fault.None;
        if (!output.IsEmpty && !TrySend())
            return false;
        if (!Ring.TryTake(Chain, out fault))
            return false;
        // More at once than there is room for is no text that a console has.
        var length = (int)Math.Min(Chain.ReadableLength, ConsoleOutput.Capacity);
        Chain.TryTakeReadable(output.Fill(length));
        Complete(0, length);
        TrySend();
        return true;
    }

    private bool TrySend()
    {
        while (!output.IsEmpty)
        {
            var taken = send(output.Left);
            if (taken == 0)
                return false;
            output.Taken(taken);
        }

        return true;
    }
}
