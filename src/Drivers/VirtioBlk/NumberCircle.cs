namespace Virtbus.Drivers.VirtioBlk;

/// <summary>Numbers in the order in which they came, gone round. Its user sees to it that there are never more than it has room for. One thread.</summary>
/// <param name="size">For how many there is room.</param>
internal struct NumberCircle(int size)
{
    private readonly int[] _numbers = new int[size];
    private int _first;

    internal int Count { get; private set; }

    /// <summary>The one that came first of those that are there.</summary>
    internal readonly int First => _numbers[_first];

    internal void Add(int number)
    {
        var at = _first + Count++;
        _numbers[at < _numbers.Length ? at : at - _numbers.Length] = number;
    }

    internal int Take()
    {
        var number = First;
        _first = _first + 1 == _numbers.Length ? 0 : _first + 1;
        Count--;
        return number;
    }

    /// <summary>All numbers below its size, in their order.</summary>
    internal void Fill()
    {
        while (Count < _numbers.Length)
            Add(Count);
    }
}
