using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Virtio;

/// <summary>Our driver's side against our device's side of a ring, step by step as a seed says, beside a model of a few lists and counters.</summary>
public sealed class RingScheduleTests : IDisposable
{
    private const ulong Base = 0x10_0000;
    private const int MostOut = 40;
    private const ulong Tables = 0x4_0000;
    private const ulong Data = 0x8_0000;
    private const int DataSize = 0x1000;
    private readonly HostMemory _memory;
    private readonly IoAddressSpace _space = new();
    private readonly StandaloneDma _dma = new("test");
    private readonly Stack<DescriptorChain> _spare = [];

    public RingScheduleTests()
    {
        _memory = HostMemory.Allocate("virtbus-test", Data + (MostOut * DataSize), out var file);
        file.Dispose();
        Assert.True(_space.TryMap(new Iova(Base), _memory.Size, _memory, 0, DmaAccess.ReadWrite, out _));
        _dma.Attach(_space);
    }

    public void Dispose()
    {
        _space.Dispose();
        _memory.Dispose();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Two_sides_and_a_model_agree_at_each_step_of_any_schedule(bool packed)
    {
        var first = Environment.GetEnvironmentVariable("VIRTBUS_SEED") is { } text ? int.Parse(text) : 1;
        var (done, batches, runs) = (0, 0, 0);
        for (var seed = first; seed < first + 300; seed++)
        {
            var run = new Run(this, packed, seed);
            for (var step = 0; step < 800; step++)
                run.Step();
            run.End();
            done += run.Done;
            batches += run.Spared;
            runs += run.Runs;
        }

        TestContext.Current.TestOutputHelper?.WriteLine($"{done} buffers, {batches} without a word of their own");
        Assert.True(done > 10_000 && batches > 100 && runs > 500, $"{done} buffers, {batches} without a word of their own, {runs} by the short way");
    }

    [Theory]
    [InlineData(false, 1)]
    [InlineData(false, 2)]
    [InlineData(false, 32768)]
    [InlineData(true, 1)]
    [InlineData(true, 2)]
    [InlineData(true, 3)]
    [InlineData(true, 32767)]
    [InlineData(true, 32768)]
    public void Ring_of_any_size_goes_round_and_round_and_fills_up(bool packed, int size)
    {
        using var memory = HostMemory.Allocate("virtbus-test", 0x10_0000, out var file);
        file.Dispose();
        using var space = new IoAddressSpace();
        Assert.True(space.TryMap(new Iova(Base), memory.Size, memory, 0, DmaAccess.ReadWrite, out _));
        var dma = new StandaloneDma("test");
        dma.Attach(space);
        foreach (var inOrder in (bool[])[false, true])
        {
            var driver = RingForm.NewDriver(packed, memory, Base, size, eventIndex: true, inOrder: inOrder);
            var device = RingForm.NewDevice(packed);
            Assert.True(device.TryStart(driver.Layout, dma.Port, QueueState.Beginning(packed), out var fault), fault.Message);
            DescriptorChain[] chains = [.. Enumerable.Range(0, 16).Select(_ => new DescriptorChain(4))];
            DriverBuffer[] one = [new(new Iova(Base + 0xF_0000), 4, true)], two = [new(new Iova(Base + 0xF_0000), 4, false), one[0]];
            // Several times around; each time full, by buffers of one and of two descriptors, which make the places come out differently.
            for (var round = 0; round < 7; round++)
            {
                var added = 0;
                for (; ; added++)
                {
                    if (driver.Add(added % 3 == 1 && driver.FreeDescriptors > 1 ? two : one) < 0)
                        break;
                }

                Assert.Equal(0, driver.FreeDescriptors);
                Assert.False(device.EnableKicks());
                Assert.True(driver.Publish());
                var taken = 0;
                while (device.Take(chains, out fault) is var count and > 0)
                {
                    taken += count;
                    foreach (var chain in chains.AsSpan(0, count))
                        device.Complete(chain, 4);
                }

                Assert.Equal(Fault.None, fault);
                Assert.Equal(added, taken);
                Assert.False(driver.TryTakeUsed(out _, out _, out _));
                Assert.False(driver.RequestCalls(true));
                Assert.True(device.Publish());
                for (; taken > 0; taken--)
                    Assert.True(driver.TryTakeUsed(out _, out _, out fault), fault.Message);
                Assert.False(driver.TryTakeUsed(out _, out _, out fault));
                Assert.Equal(Fault.None, fault);
                Assert.Equal(size, driver.FreeDescriptors);
            }

            device.Stop();
        }
    }

    private DescriptorChain Chain() => _spare.TryPop(out var chain) ? chain : new DescriptorChain(32);

    private sealed class Run
    {
        private readonly RingScheduleTests _test;
        private readonly Random _random;
        private readonly bool _packed;
        private readonly int _seed;
        private readonly Stack<int> _places = new(Enumerable.Range(0, MostOut));
        // What the driver added and did not publish; what it published and the device did not take; what that has; what it is done with and did not
        // publish; what the driver did not see yet. Each in the order in which it came there.
        private readonly List<Request> _added = [];
        private readonly List<Request> _available = [];
        private readonly List<Request> _taken = [];
        private readonly List<Request> _ended = [];
        private readonly List<Request> _used = [];
        private int _size;
        private bool _eventIndex;
        private bool _indirect;
        private bool _inOrder;
        private DriverRing _driver = null!;
        private DeviceRing _device = null!;
        // How far each side is, and the place of which each waits to be told; in buffers, or in descriptors of a packed ring.
        private long _driverAt;
        private long _deviceAt;
        private long _driverSees;
        private long _takenTo;
        private int _lastDone;
        private long? _callAt;
        private long? _kickAt;

        internal Run(RingScheduleTests test, bool packed, int seed)
        {
            (_test, _packed, _seed, _random) = (test, packed, seed, new Random(seed));
            Begin();
        }

        internal int Done { get; private set; }

        internal int Spared { get; private set; }

        internal int Runs { get; private set; }

        internal void Step()
        {
            switch (_random.Next(100))
            {
                case < 30:
                    Add();
                    break;
                case < 45:
                    PublishAvailable();
                    break;
                case < 55:
                    Take();
                    break;
                case < 60:
                    TakeRuns();
                    break;
                case < 78:
                    Complete();
                    break;
                case < 86:
                    PublishUsed();
                    break;
                case < 94:
                    See();
                    break;
                case < 96:
                    Wish();
                    break;
                case < 97:
                    PutBack();
                    break;
                case < 99:
                    Move();
                    break;
                default:
                    if (_random.Next(4) == 0)
                        Begin();
                    break;
            }
        }

        // All that is under way comes to its end.
        internal void End()
        {
            PublishAvailable();
            do
            {
                Take();
                while (_taken.Exists(request => !request.IsDone))
                    Complete();
                PublishUsed();
                See();
            }
            while (_available.Count > 0 || _used.Count > 0);
            Check(_driver.FreeDescriptors == _size && _added.Count + _taken.Count + _ended.Count == 0, "nothing is out");
            _device.Stop();
        }

        private void Begin()
        {
            _device?.Stop();
            foreach (var request in (IEnumerable<Request>)[.. _added, .. _available, .. _taken, .. _ended, .. _used])
                Free(request);
            foreach (var list in (List<Request>[])[_added, _available, _taken, _ended, _used])
                list.Clear();
            _size = _packed ? _random.Next(1, 25) : 1 << _random.Next(5);
            _eventIndex = _random.Next(2) == 0;
            _indirect = _random.Next(2) == 0;
            _inOrder = _random.Next(2) == 0;
            _driver = RingForm.NewDriver(_packed, _test._memory, Base, _size, _eventIndex, _indirect, _inOrder);
            _device = RingForm.NewDevice(_packed);
            Start(QueueState.Beginning(_packed));
            (_driverAt, _deviceAt, _driverSees, _takenTo) = (0, 0, 0, 0);
            // As the memory is at first: with event indexes of a split ring the first buffer is waited for, else each.
            (_callAt, _kickAt) = (0, 0);
        }

        private void Start(QueueState state) => Check(_device.TryStart(_driver.Layout, _test._dma.Port, state, out var fault), fault.Message);

        private void Add()
        {
            if (_places.Count == 0)
                return;
            var place = _places.Peek();
            var (reads, writes) = (_random.Next(4), _random.Next(4));
            // Half of them are one buffer.
            if (_random.Next(2) == 0)
                (reads, writes) = _random.Next(2) == 0 ? (1, 0) : (0, 1);
            var at = Data + ((ulong)place * DataSize);
            var buffers = new List<DriverBuffer>();
            var read = new List<byte>();
            for (var i = 0; i < Math.Max(1, reads + writes); i++)
            {
                var length = (uint)_random.Next(1, 60);
                var isWritable = i >= reads;
                var bytes = new byte[length];
                _random.NextBytes(bytes);
                _test._memory.Write(at, bytes);
                if (!isWritable)
                    read.AddRange(bytes);
                buffers.Add(new DriverBuffer(new Iova(Base + at), length, isWritable));
                at += length + (uint)_random.Next(3);
            }

            var inTable = _indirect && _random.Next(2) == 0;
            var free = _driver.FreeDescriptors;
            int name;
            if (inTable)
            {
                var table = Tables + ((ulong)place * 0x400);
                RingForm.WriteTable(_packed, _test._memory, table, [.. buffers]);
                name = _driver.AddIndirect(new Iova(Base + table), (uint)buffers.Count * 16);
            }
            else
            {
                name = _driver.Add([.. buffers]);
            }

            var slots = inTable ? 1 : buffers.Count;
            Check(name >= 0 == free >= slots, "there is room, or there is not");
            if (name < 0)
                return;
            _places.Pop();
            Check(_driver.FreeDescriptors == free - slots, "descriptors are taken");
            _added.Add(new Request(name, place, slots, inTable, [.. buffers], [.. read]));
        }

        private void PublishAvailable()
        {
            var old = _driverAt;
            _driverAt += Units(_added);
            _available.AddRange(_added);
            _added.Clear();
            Told(_driver.Publish(), _kickAt, old, _driverAt, "kick");
        }

        private void Take()
        {
            var most = _random.Next(1, 5);
            var chains = new DescriptorChain[most];
            for (var i = 0; i < most; i++)
                chains[i] = _test.Chain();
            Check(_device.HasAvailable() == _available.Count > 0, "buffers are announced");
            var count = _device.Take(chains, out var fault);
            Check(fault == Fault.None, fault.Message);
            // Of a split ring those that were announced together come first.
            var all = Math.Min(most, _available.Count);
            Check(count == all || (!_packed && count > 0 && count < all), "as many are taken as there are");
            for (var i = 0; i < most; i++)
            {
                if (i >= count)
                {
                    _test._spare.Push(chains[i]);
                    continue;
                }

                var (request, chain) = (_available[0], chains[i]);
                _available.RemoveAt(0);
                request.Chain = chain;
                Check(chain.Head == request.Name, "the name");
                Check(chain.ReadableLength == request.Read.Length && chain.WritableLength == request.Room, "the lengths");
                _taken.Add(request);
                _takenTo += _packed ? request.Slots : 1;
            }
        }

        // In one stay: some are taken, the first of them are handed back used, and the others as they were.
        private void TakeRuns()
        {
            var writable = _random.Next(2) == 0;
            var runs = new RingRun[_random.Next(1, 5)];
            var most = _inOrder && _taken.Count > 0 ? 0 : _available.TakeWhile(request => request.IsRun(writable)).Take(runs.Length).Count();
            var count = _device.TakeRuns(runs, writable, out var stay);
            try
            {
                Check(count == most || (!_packed && count > 0 && count < most), "as many runs are taken as there are");
                var used = _random.Next(count + 1);
                for (var i = 0; i < used; i++)
                    Use(runs[i], _available[i], writable);
                _device.PutBackRuns(count - used);
                _ended.AddRange(_available[..used]);
                _available.RemoveRange(0, used);
                Runs += used;
            }
            finally
            {
                // Or who takes the memory away would wait for ever.
                stay.Leave();
            }
        }

        private void Use(in RingRun run, Request request, bool writable)
        {
            var length = (int)request.Buffers[0].Length;
            Check(run.Length == length, "the length of a run");
            if (writable)
            {
                request.Wrote = new byte[_random.Next(2) == 0 ? length : _random.Next(length + 1)];
                _random.NextBytes(request.Wrote);
                request.Wrote.CopyTo(run.Bytes);
            }
            else
            {
                Check(run.Bytes.SequenceEqual(request.Read), "what the device reads of a run");
            }

            _device.CompleteRun(run, (uint)request.Wrote.Length);
            request.IsDone = true;
            _lastDone = Math.Max(_lastDone, request.Order);
            _takenTo++;
        }

        private void PutBack()
        {
            // Those that were taken last, and none of which the device is done with.
            var from = _taken.Count;
            while (from > 0 && _taken[from - 1].Order > _lastDone)
                from--;
            from = _random.Next(from, _taken.Count + 1);
            var back = _taken[from..];
            if (back.Count == 0)
                return;
            _device.PutBack(back.Select(request => request.Chain!).ToArray());
            _taken.RemoveRange(from, back.Count);
            _available.InsertRange(0, back);
            _takenTo -= Units(back);
            foreach (var request in back)
                _test._spare.Push(request.Chain!);
        }

        private void Complete()
        {
            var open = _taken.FindAll(request => !request.IsDone);
            if (open.Count == 0)
                return;
            var request = open[_random.Next(2) == 0 ? 0 : _random.Next(open.Count)];
            var chain = request.Chain!;
            var read = new byte[request.Read.Length];
            Check(chain.TryTakeReadable(read) && read.AsSpan().SequenceEqual(request.Read), "what the device reads");
            request.Wrote = new byte[_random.Next(2) == 0 ? request.Room : _random.Next(request.Room + 1)];
            _random.NextBytes(request.Wrote);
            Check(chain.Write(request.Wrote) == request.Wrote.Length, "what the device writes");
            _device.Complete(chain, (uint)request.Wrote.Length);
            _test._spare.Push(chain);
            request.IsDone = true;
            _lastDone = Math.Max(_lastDone, request.Order);
            if (!_inOrder)
            {
                _taken.Remove(request);
                _ended.Add(request);
                return;
            }

            while (_taken.Count > 0 && _taken[0].IsDone)
            {
                _ended.Add(_taken[0]);
                _taken.RemoveAt(0);
            }
        }

        private void PublishUsed()
        {
            if (_inOrder)
                Spared += _ended.SkipLast(1).Count(request => request.Wrote.Length == request.Room);
            var old = _deviceAt;
            _deviceAt += Units(_ended);
            _used.AddRange(_ended);
            var any = _ended.Count > 0;
            _ended.Clear();
            var told = _device.Publish();
            if (any)
                Told(told, _callAt, old, _deviceAt, "call");
            else
                Check(!told, "there is nothing to tell of");
        }

        private void See()
        {
            for (var most = _random.Next(1, 6); most > 0; most--)
            {
                var any = _driver.TryTakeUsed(out var name, out var written, out var fault);
                Check(fault == Fault.None, fault.Message);
                Check(any == _used.Count > 0, "a used buffer");
                if (!any)
                    return;
                var request = _used[0];
                _used.RemoveAt(0);
                Check(name == request.Name, "the name of a used buffer");
                // What lies in a table of the caller's, and has no word of its own, was used whole.
                Check(written == request.Wrote.Length || (request.InTable && written == uint.MaxValue && request.Wrote.Length == request.Room), "the length");
                var at = 0;
                foreach (var buffer in request.Buffers)
                {
                    if (!buffer.DeviceWrites)
                        continue;
                    var bytes = new byte[Math.Min((int)buffer.Length, request.Wrote.Length - at)];
                    _test._memory.Read(buffer.Address.Value - Base, bytes);
                    Check(bytes.AsSpan().SequenceEqual(request.Wrote.AsSpan(at, bytes.Length)), "what the driver reads");
                    at += bytes.Length;
                }

                _driverSees += _packed ? request.Slots : 1;
                Done++;
                Free(request);
            }
        }

        private void Wish()
        {
            var wanted = _random.Next(2) == 0;
            if (_random.Next(2) == 0)
            {
                Check(_driver.RequestCalls(wanted) == _used.Count > 0, "used buffers wait");
                _callAt = wanted ? _driverSees : null;
            }
            else if (wanted)
            {
                Check(_device.EnableKicks() == _available.Count > 0, "available buffers wait");
                _kickAt = _takenTo;
            }
            else if (_kickAt is not null)
            {
                _device.EnableKicks();
                _device.DisableKicks();
                // Of a split ring with event indexes the one that was waited for stands there still.
                _kickAt = _eventIndex && !_packed ? _takenTo : null;
            }
        }

        // Another device goes on where this one stood; what this one had it is done with, or has put back.
        private void Move()
        {
            PutBack();
            while (_taken.Exists(request => !request.IsDone))
                Complete();
            PublishUsed();
            var state = _device.State;
            _device.Stop();
            Check(QueueState.TryDecode(state.Encode(), _packed, out var moved, out _) && moved == state, "the state as a number");
            _device = RingForm.NewDevice(_packed);
            Start(state);
        }

        private void Told(bool told, long? waitedFor, long old, long now, string what)
        {
            if (waitedFor is not { } at)
                Check(!told || (_eventIndex && !_packed), $"no {what} is wanted");
            else if (!_eventIndex)
                Check(told, $"each {what} is wanted");
            else if (old <= at && at < now)
                Check(told, $"the {what} for {at} between {old} and {now}");
            else if (at != 0 && old - at < _size)
                Check(!told, $"a {what} for {at} between {old} and {now}");
        }

        private long Units(List<Request> requests) => _packed ? requests.Sum(request => request.Slots) : requests.Count;

        private void Free(Request request) => _places.Push(request.Place);

        private void Check(bool holds, string what)
        {
            if (!holds)
                Assert.Fail($"seed {_seed}, packed {_packed}, size {_size}, event index {_eventIndex}, in order {_inOrder}: {what}");
        }
    }

    private sealed record Request(int Name, int Place, int Slots, bool InTable, DriverBuffer[] Buffers, byte[] Read)
    {
        // From 1 on.
        private static int _orders;

        internal int Order { get; } = Interlocked.Increment(ref _orders);

        internal int Room { get; } = (int)Buffers.Where(buffer => buffer.DeviceWrites).Sum(buffer => buffer.Length);

        internal bool IsRun(bool writable) => !InTable && Buffers.Length == 1 && Buffers[0].DeviceWrites == writable;

        internal DescriptorChain? Chain { get; set; }

        internal byte[] Wrote { get; set; } = [];

        internal bool IsDone { get; set; }
    }
}
