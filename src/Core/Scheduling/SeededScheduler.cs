namespace Virtbus.Core;

/// <summary>
/// Runs a whole fabric on the calling thread and picks what runs next by a seed: the same seed and the same program give the same
/// order of every step. Used to explore interleavings and to replay a failure exactly.
/// </summary>
/// <remarks>Single threaded: <see cref="Run"/> and all work on it use the thread that calls <see cref="Run"/>.</remarks>
public sealed class SeededScheduler : FabricScheduler
{
    private readonly Queue _queue;

    /// <summary>Makes a scheduler.</summary>
    /// <param name="seed">Decides every choice.</param>
    public SeededScheduler(ulong seed)
        : this(new Queue(seed))
    {
    }

    private SeededScheduler(Queue queue)
        : base(queue) => _queue = queue;

    /// <summary>How many steps have run; part of what a replay compares.</summary>
    public long Steps => _queue.Steps;

    /// <summary>A number in [0, <paramref name="bound"/>) from the seed; the simulated program takes its choices here.</summary>
    /// <param name="bound">Exclusive upper bound, at least 1.</param>
    public int Next(int bound) => _queue.Next(bound);

    /// <inheritdoc/>
    public override async ValueTask InterleaveAsync()
    {
        // A yield posts the continuation to this scheduler's queue, where the seed picks who goes on.
        if (_queue.Next(2) == 0)
            await Task.Yield();
    }

    /// <summary>Runs <paramref name="program"/> and everything that it starts until nothing is left to run.</summary>
    /// <param name="program">The simulated program.</param>
    /// <exception cref="InvalidOperationException">The program waits for something that nothing will do: a hang.</exception>
    public void Run(Func<Task> program)
    {
        // A context of the calling thread would draw every await to itself, past the seed.
        var context = SynchronizationContext.Current;
        SynchronizationContext.SetSynchronizationContext(null);
        Task task;
        try
        {
            task = Task.Factory.StartNew(program, CancellationToken.None, TaskCreationOptions.DenyChildAttach, _queue).Unwrap();
            _queue.Drain();
        }
        finally
        {
            SynchronizationContext.SetSynchronizationContext(context);
        }
        if (!task.IsCompleted)
            throw new InvalidOperationException("The simulated program waits for something that nothing is left to do.");
#pragma warning disable VSTHRD002 // The task is complete; this only rethrows its error.
        task.GetAwaiter().GetResult();
#pragma warning restore VSTHRD002
    }

    private sealed class Queue(ulong seed) : TaskScheduler
    {
        private readonly List<Task> _ready = [];
        private ulong _state = (seed * 0x9E3779B97F4A7C15) | 1;

        public long Steps { get; private set; }

        // xorshift64*: small, fast, the same on every machine.
        public int Next(int bound)
        {
            _state ^= _state >> 12;
            _state ^= _state << 25;
            _state ^= _state >> 27;
            return (int)((_state * 0x2545F4914F6CDD1D >> 33) % (ulong)bound);
        }

        public void Drain()
        {
            while (_ready.Count > 0)
            {
                var i = Next(_ready.Count);
                var task = _ready[i];
                _ready.RemoveAt(i);
                Steps++;
                TryExecuteTask(task);
            }
        }

        protected override void QueueTask(Task task) => _ready.Add(task);

        // Inlining would let a caller run on without the seed's choice.
        protected override bool TryExecuteTaskInline(Task task, bool taskWasPreviouslyQueued) => false;

        protected override IEnumerable<Task> GetScheduledTasks() => _ready;
    }
}
