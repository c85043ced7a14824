-- The end of a script whose reply was ready before the lookup was seen to.

return reply
