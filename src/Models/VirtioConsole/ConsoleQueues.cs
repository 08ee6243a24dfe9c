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
    protected const int MostText = 64 << 10;
    private const int SpareRuns = 64;

    private ulong _requests;
    private ulong _bytes;
    private ulong _errors;

    public (ulong Requests, ulong Bytes, ulong Errors) Counters => (Volatile.Read(ref _requests), Volatile.Read(ref _bytes), Volatile.Read(ref _errors));

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

    protected void Lose() => _errors++;
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

/// <summary>
/// Queue 1: a buffer is the guest's again as soon as its text is copied. None is held back for who does not read: a kernel that prints waits for it with
/// its interrupts off.
/// </summary>
internal sealed class ConsoleOutputQueue(ConsoleSink send) : ConsoleQueue
{
    private readonly byte[] _text = new byte[MostText];

    public override bool IsFull => false;

    public override bool Process(out Fault fault)
    {
        if (!Ring.TryTake(Chain, out fault))
            return false;
        // More at once is no text that a console has.
        var length = (int)Math.Min(Chain.ReadableLength, MostText);
        Chain.TryTakeReadable(_text.AsSpan(0, length));
        Complete(0, length);
        if (send(_text.AsSpan(0, length)) < length)
            Lose();
        return true;
    }
}
