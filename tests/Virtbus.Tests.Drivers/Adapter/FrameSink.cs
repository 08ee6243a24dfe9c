using Virtbus.Ethernet;
using Virtbus.Subsystems.Net;

namespace Virtbus.Tests.Drivers.Adapter;

/// <summary>Counts received frames and lets a test wait for a number of them.</summary>
internal sealed class FrameSink(int wanted) : IFrameReceiver
{
    private readonly TaskCompletionSource _done = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly List<int> _sequences = [];

    public IReadOnlyList<int> Sequences
    {
        get
        {
            lock (_sequences)
                return [.. _sequences];
        }
    }

    public Task Done => _done.Task.EndsAsync($"{wanted} frames", () => $"only those of {string.Join(' ', Sequences)}");

    public void Receive(NetDevice device, int queue, in EthernetFrame frame)
    {
        lock (_sequences)
        {
            _sequences.Add(AdapterFixture.SequenceOf(frame.Bytes));
            if (_sequences.Count == wanted)
                _done.TrySetResult();
        }
    }
}
